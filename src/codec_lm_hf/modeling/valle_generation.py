"""How VALL-E speaks: the loop of the first codebook, then the other codebooks one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ..configuration.valle import ValleConfig
from .generation import generates, step_mask
from .layers.alignment import NO_SYMBOL, AlignedSymbols, TextPointer, frame_symbols
from .layers.cache import new_cache
from .lm_base import NO_CODE, TO_GENERATE, CodecLMGenerateOutput, Decoding, check_ends, guided, logger
from .valle_stage import LONGEST_PREFIX, Text


@dataclass
class ValleGenerateOutput(CodecLMGenerateOutput):
    """Output of `ValleForConditionalGeneration.generate` with `return_dict_in_generate=True`.

    Attributes:
        durations: with `monotonic_alignment`, `(batch, symbols)` frames that each symbol lasts.
    """

    durations: Tensor | None = None


@dataclass
class _Speaking:
    """State of the loop.

    Attributes:
        text: that is spoken.
        audio, audio_valid: the start, embedded, and which of its frames are no padding.
        cache: see `Transformer`.
        position: `(batch,)` of the next frame.
        valid: `(batch, steps)` bool, false on padding among what the cache has seen.
        symbols, pointer: with `monotonic_alignment`, what `AlignedSymbols` makes of the text, and where it is said.
    """

    text: Text
    audio: Tensor
    audio_valid: Tensor
    cache: Cache | None
    position: Tensor
    valid: Tensor | None = None
    symbols: Tensor | None = None
    pointer: TextPointer | None = None

    def told(self, steps: int) -> Tensor | None:
        """What the first transformer is told of the frames after the last so many ones, `(batch, steps, dim)`."""
        if self.pointer is None:
            return None
        places = self.pointer.last_places(steps)
        return AlignedSymbols.at(self.symbols, places.repeat(len(self.symbols) // len(places), 1))


class _TextSpoken(StoppingCriteria):
    """Ends the rows whose text has been said."""

    def __init__(self, pointer: TextPointer) -> None:
        self.pointer = pointer

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:
        return self.pointer.done


class ValleGenerationMixin:
    """`generate` and `continual` of `ValleForConditionalGeneration`, whose transformers and checks they use."""

    config: ValleConfig

    @generates
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        prompt_codes: Tensor | None = None,
        prompt_text_lengths: Tensor | None = None,
        prompt_durations: Tensor | None = None,
        advance_threshold: float | None = 0.5,
        streamer: BaseStreamer | None = None,
        **kwargs,
    ) -> Tensor | ValleGenerateOutput:
        """Speak a text.

        Args:
            input_ids: `(batch, symbols)`: what the prompt says and what is to be said, in one text.
            attention_mask: `(batch, symbols)`, 0 on padding; all ones by default.
            prompt_codes: `(batch, codebooks, frames)` of the voice, -100 after a row's end. Needed unless the model
                was made with `prepend_bos`.
            prompt_text_lengths: `(batch,)` symbols of the prompt's text alone, with its begin and end; needed in
                prefix modes 2 and 4, whose second transformer reads only what is to be said (with
                `monotonic_alignment` it reads the whole text).
            prompt_durations: with `monotonic_alignment`, `(batch, symbols)` frames of the prompt that each symbol
                lasts; speech goes on with the last one that has any, so that this is where both texts meet. A row of
                zeros, or `None`: it is not known what the prompt says, and `input_ids` hold only what is to be said.
            advance_threshold: with `monotonic_alignment`, a symbol ends as soon as it has ended with this probability,
                all its frames together: 0.5 gives the median of its durations. `None`: ends are drawn.
            streamer: gets all frames at once after the last codebook, since each codebook is made from all of the one
                before. An `AudioStreamer` makes audio of them piece by piece.
            **kwargs: fields of `GenerationConfig` (`do_sample`, `temperature`, `top_k`, `top_p`, `guidance_scale` of
                models trained with `condition_dropout`, `max_new_tokens` in frames, `output_logits`,
                `return_dict_in_generate`, ...), `generation_config`, `logits_processor`, `stopping_criteria`; `seed`,
                a number or a `torch.Generator`; `progress`, called with the frames done and the frames there are at
                most.

        Returns:
            `(batch, codebooks, frames)` int64 without the prompt, -100 after a row's end; with
            `return_dict_in_generate`, a `ValleGenerateOutput`.

        Raises:
            ValueError: inputs that do not fit the configuration, or unknown arguments.
        """
        text = self._text(input_ids, attention_mask)
        prompt = self._prompt(prompt_codes, text)
        lengths = check_ends("prompt_codes", prompt)
        prompt_symbols = self._frame_symbols(text, prompt, None, prompt_durations, None)
        end = None if self.config.monotonic_alignment else self.config.end_id
        decoding = self._decoding(text.ids.device, end_id=end, **kwargs)
        first = prompt[:, 0].where(prompt[:, 0] >= 0, self.config.end_id)
        if self.config.prepend_bos:
            first, lengths = nn.functional.pad(first, (1, 0), value=self.config.begin_id), lengths + 1
        elif not lengths.all():
            raise ValueError(
                "prompt_codes must have at least one frame per row: this model predicts no first frame. Give the "
                "processor a recording of the voice (audio=...), or codes of one."
            )
        pointer, ahead = None, None
        if prompt_symbols is not None:
            if prompt_text_lengths is not None:
                self._check_known(prompt_text_lengths, prompt_symbols)
            pointer = self._pointer(text, prompt_symbols, decoding, advance_threshold)
            ahead = self._ahead(prompt_symbols, pointer.place, lengths)
        limits = self._limits(text, decoding.options.max_new_tokens, pointer)
        longest = int(limits.max())
        columns = first.shape[1] + longest + (0 if self.ar.as_memory else text.ids.shape[1])
        cache = new_cache(self.config, decoding.options, columns, text.ids.shape[1] if self.ar.as_memory else None)
        guidance = decoding.options.guidance_scale
        reads = text if guidance in (None, 1) else text.twice(self.config.pad_token_id)
        state = self._begin(reads, first, lengths, pointer, ahead, cache)
        sequence = first.new_full((len(first), 1, longest), TO_GENERATE)
        steps = self._run_steps(sequence, state, decoding, end, limits, self.config.stop_on_argmax)
        self._report(steps.ends, steps.stopped)
        mask = torch.arange(int(steps.ends.max()), device=first.device) < steps.ends[:, None]
        level = steps.sequence[:, 0, : mask.shape[1]].masked_fill(~mask, NO_CODE)
        durations = frames = None
        if pointer is not None:
            durations = pointer.durations_until(steps.ends)
            frames = torch.cat([prompt_symbols, frame_symbols(durations, mask.shape[1])], dim=1)
        said = self._said(text, prompt_text_lengths)
        codes, level_logits = self._fill_levels(said, prompt, level[:, None], frames, guidance)
        if streamer is not None:
            streamer.put(codes.cpu())
        if not decoding.options.return_dict_in_generate:
            return codes
        level_logits = level_logits if decoding.options.output_logits else None
        return ValleGenerateOutput(
            codes, mask, steps.stopped, steps.scores, steps.logits, level_logits, durations=durations
        )

    @torch.no_grad()
    def continual(
        self,
        input_ids: Tensor,
        codes: Tensor,
        attention_mask: Tensor | None = None,
        durations: Tensor | None = None,
    ) -> Tensor:
        """Codes of a recording again: half of them (three seconds at most) as the prompt, the first codebook copied.

        Args:
            input_ids: `(batch, symbols)`: the text of the whole recording.
            codes: `(batch, codebooks, frames)` of it, rows of one length.
            attention_mask: `(batch, symbols)`, 0 on padding.
            durations: with `monotonic_alignment`, `(batch, symbols)` frames that each symbol lasts.

        Returns:
            `(batch, codebooks, frames after the prompt)`.
        """
        text = self._text(input_ids, attention_mask)
        codes = self._check_codes("codes", codes, len(text.ids))
        if (codes == NO_CODE).any():
            raise ValueError("codes must be of one length; call continual row by row for others.")
        prefix = min(codes.shape[-1] // 2, LONGEST_PREFIX)
        symbols = self._frame_symbols(text, codes[..., :0], codes, None, durations)
        swapped = self.config.continual_swaps_prenet and self.config.prefix_mode == 0
        first = codes[:, :1, prefix:]
        return self._fill_levels(text, codes[..., :prefix], first, symbols, positions_first=swapped)[0]

    def _begin(
        self,
        text: Text,
        first: Tensor,
        lengths: Tensor,
        pointer: TextPointer | None,
        ahead: Tensor | None,
        cache: Cache | None,
    ) -> _Speaking:
        """The state before the first step. The text may have twice the rows of the start; so has the state then."""
        copies, symbols, told = len(text.ids) // len(first), None, None
        first, lengths = first.repeat(copies, 1), lengths.repeat(copies)
        if pointer is not None:
            symbols = self.ar.aligned(text.ids, text.valid)
            told = self.ar.aligned.at(symbols, ahead.repeat(copies, 1))
        places = torch.arange(first.shape[1], device=first.device)
        begun = (places < self.config.prepend_bos).expand_as(first)
        audio = self.ar.embed_codes(first, places[None], told, None if pointer is None else text.seen(begun))
        valid = places < lengths[:, None]
        return _Speaking(text, audio, valid, cache, lengths, symbols=symbols, pointer=pointer)

    def _first_logits(self, ids: Tensor, state: _Speaking) -> Tensor:
        # Prompts of other lengths stand in the same columns, and padding between them and what follows is hidden.
        audio, valid, last = state.audio, state.audio_valid, state.position - 1
        if steps := ids.shape[-1]:
            places = state.position[:, None] + torch.arange(steps, device=ids.device)
            audio = torch.cat([audio, self.ar.embed_codes(ids[:, 0], places, state.told(steps))], dim=1)
            valid = nn.functional.pad(valid, (0, steps), value=True)
            last = torch.full_like(last, audio.shape[1] - 1)
        hidden = self.ar(state.text, audio, valid, cache=state.cache)
        state.valid = valid if self.ar.as_memory else torch.cat([state.text.valid, valid], dim=1)
        return self._said_of(hidden[torch.arange(len(hidden), device=hidden.device), last], state)

    def _next_logits(self, ids: Tensor, state: _Speaking) -> Tensor:
        audio = self.ar.embed_codes(ids[:, 0], state.position[:, None], state.told(1))
        mask = step_mask(state.cache, state.valid, audio.device)
        memory_mask = state.text.valid[:, None, None]
        hidden = self.ar.transformer(audio, mask, memory_mask=memory_mask, past_key_values=state.cache)
        state.position = state.position + 1
        return self._said_of(hidden[:, 0], state)

    def _said_of(self, hidden: Tensor, state: _Speaking) -> Tensor:
        """Logits `(batch, 1, vocabulary)` of hidden states `(batch, dim)`; the pointer goes on by a frame."""
        if state.pointer is not None:
            # Without the text, nothing is known of its symbols.
            state.pointer.advance(self.ar.advance(hidden[: len(state.pointer.place)]))
        return self.ar.heads[0](hidden)[:, None]

    def _check_known(self, prompt_text_lengths: Tensor, prompt_symbols: Tensor) -> None:
        """Refuse the text of a prompt that would be said again, because nothing tells that the prompt says it."""
        unknown = (prompt_symbols == NO_SYMBOL).all(1) & (prompt_text_lengths > 2)
        if unknown.any():
            raise ValueError(
                f"the texts of rows {unknown.nonzero()[:, 0].tolist()} begin with that of their prompt, but not how "
                "long it lasts: give prompt_durations (training.alignment finds them), or leave the prompt's text out."
            )

    def _pointer(self, text: Text, prompt_symbols: Tensor, decoding: Decoding, threshold: float | None) -> TextPointer:
        """Where the text begins that is to be said; `decoding` ends a row where its text does."""
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"advance_threshold must be a probability above 0, or None to draw, got {threshold}.")
        pointer = TextPointer(
            nn.functional.pad(prompt_symbols, (1, 0)).amax(1),
            text.valid.sum(1),
            self.config.max_frames_per_symbol,
            decoding.options.min_new_tokens or 0,
            threshold,
            decoding.draw,
            text.ids.shape[1],
        )
        decoding.criteria = StoppingCriteriaList([*decoding.criteria, _TextSpoken(pointer)])
        return pointer

    def _ahead(self, prompt_symbols: Tensor, place: Tensor, lengths: Tensor) -> Tensor:
        """What the frame after each input of the prompt says; after the last of its `lengths` inputs, `place`."""
        ahead = nn.functional.pad(prompt_symbols, (0, 1), value=NO_SYMBOL)
        ahead = ahead if self.config.prepend_bos else ahead[:, 1:]
        return ahead.scatter(1, lengths[:, None] - 1, place[:, None])

    def _fill_levels(
        self,
        text: Text,
        prompt: Tensor,
        codes: Tensor,
        symbols: Tensor | None = None,
        guidance: float | None = None,
        positions_first: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The other codebooks of the first one's `codes` `(batch, 1, frames)`, one after the other."""
        found, ended = [], codes[:, 0] == NO_CODE
        twice = None if guidance in (None, 1) else text.twice(self.config.pad_token_id)
        for level in range(1, self.config.num_codebooks):
            if twice is None:
                logits = self.nar.level_logits(text, prompt, codes, level, symbols, positions_first)
            else:
                rows = [None if part is None else torch.cat([part, part]) for part in (prompt, codes, symbols)]
                logits = guided(self.nar.level_logits(twice, *rows[:2], level, rows[2]), guidance)
            best = logits.argmax(-1).masked_fill(ended, NO_CODE)
            codes = torch.cat([codes, best[:, None]], dim=1)
            found.append(logits)
        return codes, tuple(found)

    def _said(self, text: Text, prompt_lengths: Tensor | None) -> Text:
        """What the second transformer reads: in prefix modes 2 and 4 the text without the prompt's.

        With `monotonic_alignment` it is told where it is, and reads all that it has read in training.
        """
        if self.config.prefix_mode not in (2, 4) or self.config.monotonic_alignment:
            return text
        if prompt_lengths is None:
            raise ValueError("prompt_text_lengths are needed in prefix modes 2 and 4; 2 where the prompt has no text.")
        symbols = text.valid.sum(1)
        if (prompt_lengths < 1).any() or (prompt_lengths > symbols).any():
            raise ValueError(
                f"prompt_text_lengths must lie in 1..{symbols.tolist()}, within each text; got "
                f"{prompt_lengths.tolist()}."
            )
        # The first symbol (begin) and everything from the place of the prompt's own end.
        skipped = prompt_lengths[:, None] - 2
        lengths = symbols - skipped[:, 0]
        places = torch.arange(int(lengths.max()), device=text.ids.device)
        source = (places + skipped).masked_fill(places == 0, 0).clamp(max=text.ids.shape[1] - 1)
        valid = places < lengths[:, None]
        return Text(text.ids.gather(1, source), valid, valid)

    def _limits(self, text: Text, max_frames: int | None, pointer: TextPointer | None) -> Tensor:
        """Frames that each row has at most."""
        if max_frames is not None:
            return torch.full((len(text.ids),), max_frames, device=text.ids.device)
        if pointer is not None:
            return pointer.most_frames()
        # The original breaks off above so many frames, and counts its begin among them.
        return text.valid.sum(1) * self.config.max_frames_per_symbol + (0 if self.config.prepend_bos else 1)

    def _report(self, ends: Tensor, stopped: Tensor) -> None:
        if not stopped.all():
            endless = (~stopped).nonzero()[:, 0].tolist()
            logger.warning(
                f"rows {endless} did not end by themselves and were broken off at {int(ends.max())} frames."
            )
        if not ends.all():
            logger.warning(f"rows {(ends == 0).nonzero()[:, 0].tolist()} ended at once: no frame was generated.")

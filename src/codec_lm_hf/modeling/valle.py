"""VALL-E: one transformer for the first codebook, code by code; one for the others, codebook by codebook."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, StoppingCriteria, StoppingCriteriaList
from transformers import initialization as init
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from ..configuration.valle import ValleConfig
from .generation import generates, step_mask
from .layers.alignment import NO_SYMBOL, AlignedSymbols, TextPointer, check_durations, frame_symbols
from .layers.cache import new_cache
from .layers.factorized import FactorizedEmbedding
from .layers.transformer import recorded
from .lm_base import (
    NO_CODE,
    TO_GENERATE,
    CodecLMGenerateOutput,
    CodecLMPreTrainedModel,
    Decoding,
    check_codes,
    check_ends,
    code_hits,
    cross_entropy_sum,
    guided,
    logger,
)
from .valle_stage import ArStage, NarStage, Text

# Three seconds of EnCodec's 75 frames: the longest prompt that training makes of an utterance (section 4.2.2).
LONGEST_PREFIX = 225


@dataclass
class ValleOutput(ModelOutput):
    """Output of `ValleForConditionalGeneration`.

    Attributes:
        loss: per frame (or the original's sum, see `ValleConfig.original_loss`).
        logits: `(batch, frames, codebook_size + 1)` of the first codebook: in each place of the next code. One frame
            more with `prepend_bos`. With `monotonic_alignment` `codebook_size` of them, for each row's prompt and what
            follows it, but for the first frame of all where `prepend_bos` is off.
        nar_logits: for each level that was trained or evaluated, `(batch, frames, codebook_size)`, after the prefix.
        levels: which levels these are.
        advance_logits: with `monotonic_alignment`, `(batch, frames, max_advance + 1)`: in each place of `logits`, by
            how many symbols the frame after that goes on.
        code_hits: in evaluation, `(batch, codebooks, 2)`: codes of each row that are the most likely ones, given those
            before, and codes that were to be predicted. An end of speech is one of them, the prefix is none.
        hidden_states: with `output_hidden_states`, of the first transformer what enters the first layer and what
            leaves each, before a final norm: `(batch, steps, hidden_size)`, the text first, if it is not attended to.
        attentions, cross_attentions: with `output_attentions`, of its layers `(batch, heads, steps, steps)`, and
            `(batch, heads, steps, symbols)` where they attend to the text.
        nar_hidden_states, nar_attentions, nar_cross_attentions: with `output_nar_hidden_states`,
            `output_nar_attentions` and `output_nar_cross_attentions`, what leaves each layer of the second
            transformer, level by level.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    nar_logits: tuple[Tensor, ...] | None = None
    levels: tuple[int, ...] | None = None
    advance_logits: Tensor | None = None
    code_hits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    nar_hidden_states: tuple[Tensor, ...] | None = None
    nar_attentions: tuple[Tensor, ...] | None = None
    nar_cross_attentions: tuple[Tensor, ...] | None = None


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


class ValleForConditionalGeneration(CodecLMPreTrainedModel):
    """VALL-E (Wang et al., 2023): the codes of a text, in the voice of a prompt.

    The first codebook is generated code by code; the others each in one pass, given those before.
    """

    config: ValleConfig
    config_class = ValleConfig
    _can_record_outputs = recorded("ar") | recorded("nar", prefix="nar_")

    def __init__(self, config: ValleConfig) -> None:
        super().__init__(config)
        count = config.num_codebooks
        self.ar = ArStage(config)
        self.nar = NarStage(config) if count > 1 else None
        # Head j is for level j + 1, and what it says is embedded by table j + 1; the original ties it to the next one.
        self._tied_weights_keys = {
            f"nar.heads.{j}.weight": f"nar.audio_embeddings.{j + 2}.weight" for j in range(count - 2)
        }
        self.post_init()
        self.generation_config.update(do_sample=True, top_k=0)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Embedding, FactorizedEmbedding)):
            init.normal_(module.weight, std=self.config.embedding_initializer_range)

    @property
    def _supports_guidance(self) -> bool:
        return self.config.condition_dropout > 0

    def get_input_embeddings(self) -> nn.Embedding:
        """Of the text, in the first transformer; the second has its own."""
        return self.ar.text_embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.ar.text_embedding = value

    def _code_weights(self) -> list[list[tuple[int, Tensor]]]:
        def weights(modules: nn.ModuleList, first: int) -> list[tuple[int, Tensor]]:
            return [(first + number, module.weight) for number, module in enumerate(modules)]

        stages = [(self.ar, 0)] if self.nar is None else [(self.ar, 0), (self.nar, 1)]
        return [
            part
            for stage, first in stages
            for part in (weights(stage.audio_embeddings, 0), weights(stage.heads, first))
        ]

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """Not supported: it would change one of the two tables of text.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("VALL-E has two tables of text symbols: make a model with another vocab_size.")

    # --- training ----------------------------------------------------------------------------------------------------

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        prompt_codes: Tensor | None = None,
        level: int | None = None,
        prefix_length: int | None = None,
        prefix_starts: Tensor | None = None,
        durations: Tensor | None = None,
        prompt_durations: Tensor | None = None,
        **kwargs,
    ) -> ValleOutput:
        """Predict codes from the text and from the codes before them.

        In training, one level of the second transformer is drawn per call, in evaluation all are averaged.

        Args:
            input_ids: `(batch, symbols)` text.
            attention_mask: `(batch, symbols)`, 0 on padding; all ones by default.
            labels: `(batch, codebooks, frames)` codes to predict, -100 after a row's end.
            prompt_codes: `(batch, codebooks, prompt frames)` of another utterance of the speaker, for prefix mode 4;
                -100 after a row's end. With `monotonic_alignment` both transformers see it, and it may be left out.
            level: of the second transformer, from 1.
            prefix_length: frames of the prefix in prefix modes 1 and 2; drawn by default.
            prefix_starts: `(batch,)` frames at which the pieces of prefix mode 2 begin; drawn by default.
            durations: with `monotonic_alignment`, `(batch, symbols)` frames of `labels` that each symbol of the text
                lasts, 0 where it has no sound. Without a prompt whose text is known, the first symbol needs a frame.
            prompt_durations: likewise of `prompt_codes`, where `input_ids` hold their text; a row of zeros, or `None`:
                it is not known what the prompt says.
            **kwargs: `return_dict`, `output_hidden_states` and `output_attentions` (with the attention implementation
                `"eager"`) as in transformers; `num_items_in_batch` of `transformers.Trainer`: codes of the whole step,
                padding left out.

        Raises:
            ValueError: inputs that do not fit the configuration.
        """
        if labels is None:
            raise ValueError("give labels: the codes, from which the model is taught. To speak, call generate.")
        self._warn_of_outputs(**kwargs)
        text = self._text(input_ids, attention_mask, self.config.prenet_sees_padding)
        if self.training and self.config.condition_dropout:
            without = torch.rand(len(text.ids), device=text.ids.device) < self.config.condition_dropout
            text = text.hidden(without, self.config.pad_token_id)
        self._check_codes("labels", labels, len(text.ids))
        lengths = check_ends("labels", labels)
        stage, items = self.config.train_stage, kwargs.get("num_items_in_batch")
        frames = lengths.sum() if items is None else items / self.config.num_codebooks
        prompt = self._prompt(prompt_codes, len(text.ids))
        symbols = self._frame_symbols(text, prompt, labels, prompt_durations, durations)
        losses, logits, advance_logits, nar_logits, levels, predicted = [], None, None, None, (), {}
        if stage in ("both", "ar"):
            if symbols is None:
                logits, loss, targets = self._ar_loss(text, labels, lengths)
            else:
                logits, advance_logits, loss, targets = self._aligned_ar_loss(text, prompt, labels, symbols)
            losses.append(loss)
            predicted[0] = logits, targets
        if stage in ("both", "nar") and self.nar is not None:
            levels = self._levels(level)
            prefix = [self._split(labels, lengths, prompt, at, prefix_length, prefix_starts) for at in levels]
            passes = [
                self._nar_loss(text, *parts, at, lengths, symbols) for at, parts in zip(levels, prefix, strict=True)
            ]
            nar_logits = tuple(found for found, _ in passes)
            losses.append(torch.stack([loss for _, loss in passes]).mean())
            predicted |= {at: (found, parts[2]) for at, parts, found in zip(levels, prefix, nar_logits, strict=True)}
        hits = None if self.training else labels.new_zeros(len(labels), self.config.num_codebooks, 2)
        if hits is not None:
            for at, (found, targets) in predicted.items():
                hits[:, at] = code_hits(found, targets)
        loss = torch.stack(losses).mean()
        loss = loss if self.config.original_loss else loss / frames
        return ValleOutput(loss, logits, nar_logits, levels, advance_logits, hits)

    def _ar_loss(self, text: Text, labels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the first codebook, their summed loss, and the codes they should have said."""
        codes = labels[:, 0].where(labels[:, 0] >= 0, self.config.end_id)
        after = codes.new_full((len(codes), 1), self.config.end_id)
        targets = torch.cat([codes, after], dim=1)
        if self.config.prepend_bos:
            inputs, lengths = nn.functional.pad(codes, (1, 0), value=self.config.begin_id), lengths + 1
        else:
            inputs, targets = codes, targets[:, 1:]
        places = torch.arange(inputs.shape[1], device=codes.device)
        valid = places < lengths[:, None]
        hidden = self.ar(text, self.ar.embed_codes(inputs, places[None]), valid)
        logits = self.ar.heads[0](hidden)
        known = targets.masked_fill(~valid, NO_CODE)
        return logits, cross_entropy_sum(logits, targets if self.config.original_loss else known), known

    def _aligned_ar_loss(
        self, text: Text, prompt: Tensor, labels: Tensor, symbols: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the first codebook and of going on, their summed loss, and the codes that were to be predicted.

        `symbols` are those of all frames.
        """
        codes = torch.cat([prompt[:, 0], labels[:, 0]], dim=1)
        said = torch.arange(codes.shape[1], device=codes.device).expand_as(codes) >= prompt.shape[-1]
        # Each row's frames follow its prompt, and padding comes last.
        order = torch.argsort((codes == NO_CODE).long(), dim=1, stable=True)
        codes, symbols, said = (part.gather(1, order) for part in (codes, symbols, said))
        valid = codes != NO_CODE
        after = nn.functional.pad(symbols[:, 1:], (0, 1), value=NO_SYMBOL)
        after = after.where(after != NO_SYMBOL, text.valid.sum(1, keepdim=True))
        moves = (after - symbols).masked_fill(~(valid & said), NO_CODE)
        self._check_moves(moves)
        inputs, seen = codes.where(valid, self.config.end_id), text.seen(said)
        if self.config.prepend_bos:
            inputs = nn.functional.pad(inputs, (1, 0), value=self.config.begin_id)
            seen = nn.functional.pad(seen, (1, 0), value=True)
        else:
            codes, symbols, said, moves, valid = (part[:, 1:] for part in (codes, symbols, said, moves, valid))
        places = torch.arange(codes.shape[1], device=codes.device)
        told = self.ar.aligned.at(self.ar.aligned(text.ids, text.valid), symbols)
        hidden = self.ar(text, self.ar.embed_codes(inputs[:, :-1], places[None], told, seen[:, :-1]), valid)
        logits, advance_logits = self.ar.heads[0](hidden), self.ar.advance(hidden)
        targets = codes.masked_fill(~said, NO_CODE)
        loss = cross_entropy_sum(logits, targets)
        loss = loss + self.config.advance_loss_weight * cross_entropy_sum(advance_logits, moves)
        return logits, advance_logits, loss, targets

    def _check_moves(self, moves: Tensor) -> None:
        most, largest = self.config.max_advance, int(moves.max())
        if largest > most:
            row = int((moves > most).any(1).nonzero()[0])
            raise ValueError(
                f"durations of row {row} have {largest - 1} symbols in a row without a frame; with "
                f"max_advance={most} at most {most - 1} can be passed over. Give them frames, or raise max_advance."
            )

    def _nar_loss(
        self,
        text: Text,
        prompt: Tensor,
        codes: Tensor,
        targets: Tensor,
        level: int,
        lengths: Tensor,
        symbols: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of a level, and their summed loss, as if the frames of the prefix had one like the others'."""
        logits = self.nar.level_logits(text, prompt, codes, level, symbols)
        total = lengths.sum()
        scaled = self.config.prefix_mode in (1, 2)
        left = total - prompt.shape[-1] * len(codes) if scaled else total
        return logits, cross_entropy_sum(logits, targets) * (total / left)

    def _split(
        self,
        labels: Tensor,
        lengths: Tensor,
        prompt: Tensor,
        level: int,
        length: int | None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prompt, codes and targets of a level, as the prefix mode makes them."""
        mode, targets = self.config.prefix_mode, labels[:, level]
        given = prompt.shape[-1] > 0
        if given != (mode == 4) and not self.config.monotonic_alignment:
            raise ValueError(f"prompt_codes belong to prefix mode 4, in training; this model's is {mode}.")
        if starts is not None and mode != 2:
            raise ValueError(f"prefix_starts belong to prefix mode 2; this model's is {mode}.")
        if mode == 4:
            return prompt, labels, targets
        if mode == 0:
            return labels[..., :0], labels, targets
        shortest = int(lengths.min())
        quarter = shortest // 4
        if length is None and mode == 1:
            length = quarter + (int(torch.randint(max(quarter, 1), ())) if self.training else 0)
        length = min(quarter if length is None else length, LONGEST_PREFIX)
        if not 0 <= length < shortest:
            raise ValueError(f"prefix_length must be in 0..{shortest - 1}, below the shortest row; got {length}.")
        if mode == 1:
            return labels[..., :length], labels[..., length:], targets[:, length:]
        if starts is None:
            drawn = torch.rand(len(labels)) if self.training else torch.zeros(len(labels))
            starts = (drawn.to(lengths.device) * (lengths - length + 1)).long()
        elif starts.shape != lengths.shape or (starts < 0).any() or (starts > lengths - length).any():
            raise ValueError(
                f"prefix_starts must lie in 0..{(lengths - length).tolist()}, so that {length} frames follow in each "
                f"row; got {starts.tolist()}."
            )
        places = starts[:, None] + torch.arange(length, device=labels.device)
        prompt = labels.gather(2, places[:, None].expand(-1, labels.shape[1], -1))
        return prompt, labels, targets.scatter(1, places, NO_CODE)

    def _levels(self, level: int | None) -> tuple[int, ...]:
        count = self.config.num_codebooks
        if level is None:
            return (int(torch.randint(1, count, ())),) if self.training else tuple(range(1, count))
        if not 1 <= level < count:
            raise ValueError(f"level must be in 1..{count - 1} (level 0 is the first transformer's), got {level}.")
        return (level,)

    # --- generation --------------------------------------------------------------------------------------------------

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
        prompt = self._prompt(prompt_codes, len(text.ids))
        lengths = check_ends("prompt_codes", prompt)
        prompt_symbols = self._frame_symbols(text, prompt, None, prompt_durations, None)
        end = None if self.config.monotonic_alignment else self.config.end_id
        decoding = self._decoding(end_id=end, **kwargs)
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
        self._check_codes("codes", codes, len(text.ids))
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

    # --- shared ------------------------------------------------------------------------------------------------------

    def _text(self, input_ids: Tensor, attention_mask: Tensor | None, prenet_sees_padding: bool = False) -> Text:
        if input_ids.ndim != 2 or not input_ids.numel():
            raise ValueError(f"input_ids must have shape (batch, symbols), not empty; got {tuple(input_ids.shape)}.")
        if input_ids.min() < 0 or input_ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"input_ids must lie in 0..{self.config.vocab_size - 1}, found {int(input_ids.min())} to "
                f"{int(input_ids.max())}; is it another model's processor?"
            )
        valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if valid.shape != input_ids.shape:
            raise ValueError(f"attention_mask has shape {tuple(valid.shape)}, input_ids {tuple(input_ids.shape)}.")
        valid = valid.bool()
        if not valid[:, 0].all() or (valid[:, 1:] & ~valid[:, :-1]).any():
            raise ValueError("attention_mask must be 1 up to each row's end and 0 after it: pad texts on the right.")
        return Text(input_ids, valid, None if prenet_sees_padding else valid)

    def _prompt(self, prompt_codes: Tensor | None, batch: int) -> Tensor:
        if prompt_codes is None:
            return torch.empty(batch, self.config.num_codebooks, 0, dtype=torch.long, device=self.device)
        self._check_codes("prompt_codes", prompt_codes, batch)
        return prompt_codes

    def _frame_symbols(
        self,
        text: Text,
        prompt: Tensor,
        codes: Tensor | None,
        prompt_durations: Tensor | None,
        durations: Tensor | None,
    ) -> Tensor | None:
        """The places of what the frames of the prompt, and those of the codes after it, say; `None`: in other models.

        Raises:
            ValueError: durations that do not fit, or that a model does not use.
        """
        if not self.config.monotonic_alignment:
            if durations is not None or prompt_durations is not None:
                raise ValueError("durations belong to models with monotonic_alignment, which this one has not.")
            return None
        if prompt_durations is None:
            prompt_durations = torch.zeros_like(text.ids)
        lengths = check_ends("prompt_codes", prompt)
        check_durations("prompt_durations", prompt_durations, text.valid, lengths, optional=True)
        symbols = frame_symbols(prompt_durations, prompt.shape[-1])
        if codes is None:
            return symbols
        if durations is None:
            raise ValueError(
                "give durations: a model with monotonic_alignment has to know how many frames of these codes each "
                "symbol of the text lasts (training.alignment finds it)."
            )
        check_durations("durations", durations, text.valid, check_ends("labels", codes))
        alone = prompt_durations.sum(1) == 0
        if (alone & (durations[:, 0] == 0)).any():
            raise ValueError(
                "durations must give the first symbol a frame, where speech begins, or prompt_durations must say "
                f"what the prompt says; got {durations[:, 0].tolist()} frames."
            )
        return torch.cat([symbols, frame_symbols(durations, codes.shape[-1])], dim=1)

    def _check_codes(self, name: str, codes: Tensor, batch: int) -> None:
        check_codes(name, codes, self.config.codebook_size, self.config.num_codebooks)
        if len(codes) != batch:
            raise ValueError(f"{name} has {len(codes)} rows, input_ids has {batch}; give one for each.")

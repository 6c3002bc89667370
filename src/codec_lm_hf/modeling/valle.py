"""VALL-E: one transformer for the first codebook, code by code; one for the others, codebook by codebook."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import capture_outputs

from ..configuration.valle import ValleConfig
from .layers.alignment import NO_SYMBOL, check_durations, frame_symbols
from .layers.factorized import FactorizedEmbedding
from .layers.transformer import recorded
from .lm_base import (
    NO_CODE,
    NO_LABELS,
    CodecLMPreTrainedModel,
    check_codes,
    check_ends,
    code_hits,
    cross_entropy_sum,
)
from .valle_generation import ValleGenerationMixin
from .valle_stage import LONGEST_PREFIX, ArStage, NarStage, Text


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


class ValleForConditionalGeneration(ValleGenerationMixin, CodecLMPreTrainedModel):
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

    def enable_input_require_grads(self) -> None:
        """As in transformers, but for both transformers, of which each reads the text by a table of its own.

        Reentrant checkpointing gives no gradient where no input has one: adapters of the second would not learn.
        """
        super().enable_input_require_grads()
        if self.nar is not None:
            hook = self.nar.text_embedding.register_forward_hook(lambda *call: call[-1].requires_grad_())
            self._require_grads_hooks.append(hook)

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
            raise ValueError(NO_LABELS)
        self._warn_of_outputs(**kwargs)
        text = self._text(input_ids, attention_mask, self.config.prenet_sees_padding)
        if self.training and self.config.condition_dropout:
            without = torch.rand(len(text.ids), device=text.ids.device) < self.config.condition_dropout
            text = text.hidden(without, self.config.pad_token_id)
        labels = self._check_codes("labels", labels, len(text.ids))
        lengths = check_ends("labels", labels)
        stage, items = self.config.train_stage, kwargs.get("num_items_in_batch")
        frames = lengths.sum() if items is None else items / self.config.num_codebooks
        prompt = self._prompt(prompt_codes, text)
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

    def _prompt(self, prompt_codes: Tensor | None, text: Text) -> Tensor:
        if prompt_codes is None:
            return text.ids.new_empty(len(text.ids), self.config.num_codebooks, 0, dtype=torch.long)
        return self._check_codes("prompt_codes", prompt_codes, len(text.ids))

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

    def _check_codes(self, name: str, codes: Tensor, batch: int) -> Tensor:
        codes = check_codes(name, codes, self.config.codebook_size, self.config.num_codebooks)
        if len(codes) != batch:
            raise ValueError(f"{name} has {len(codes)} rows, input_ids has {batch}; give one for each.")
        return codes

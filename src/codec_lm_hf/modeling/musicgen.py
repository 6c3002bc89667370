"""MusicGen: all codebooks of a frame at once, each a step later than the one before, under a text and a melody."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, Cache, PreTrainedModel, T5EncoderModel
from transformers.generation.streamers import BaseStreamer
from transformers.utils import CONFIG_NAME, ModelOutput
from transformers.utils.output_capturing import capture_outputs

from ..configuration.musicgen import MusicGenLMConfig
from ..hub import Home
from . import code_patterns
from .auto import load_part
from .generation import FrameFeed, ends_of_rows, frames_after, generates, step_mask
from .layers.attention import read_separate_projections, segment_mask
from .layers.cache import new_cache
from .layers.chroma import ChromaExtractor
from .layers.linear import Linear
from .layers.positions import sinusoidal_positions
from .layers.transformer import Transformer, recorded
from .lm_base import (
    NO_CODE,
    NO_LABELS,
    TO_GENERATE,
    CodecLMGenerateOutput,
    CodecLMPreTrainedModel,
    Decoding,
    check_codes,
    check_ends,
    check_frames,
    code_hits,
    cross_entropy_sum,
)

# Names of weights in transformers' own MusicGen checkpoints -> ours. None of them is found in ours.
NATIVE_KEYS = {
    r"^decoder\.model\.decoder\.embed_tokens\.": "embeddings.",
    r"^decoder\.model\.decoder\.layer_norm\.": "transformer.norm.",
    r"^decoder\.model\.decoder\.layers\.": "transformer.layers.",
    r"^decoder\.lm_heads\.": "heads.",
    r"^enc_to_dec_proj\.": "text_projection.",
    r"^audio_enc_to_dec_proj\.": "chroma_projection.",
    r"\.self_attn\.": ".attention.",
    r"\.encoder_attn\.": ".cross_attention.",
    r"\.self_attn_layer_norm\.": ".attention_norm.",
    r"\.encoder_attn_layer_norm\.": ".cross_attention_norm.",
    r"\.final_layer_norm\.": ".feedforward_norm.",
    r"\.fc1\.": ".feedforward_in.",
    r"\.fc2\.": ".feedforward_out.",
}
_TEXT_ENCODER = "text_encoder"


@dataclass
class MusicGenLMOutput(ModelOutput):
    """Output of `MusicGenLMForConditionalGeneration`.

    Attributes:
        loss: mean over the codebooks of their mean cross entropies (or the sum over `num_items_in_batch`).
        codebook_losses: `(codebooks,)`, each mean.
        logits: `(batch, codebooks, frames, codebook_size)`, in the place of the code that they predict.
        logits_mask: `(codebooks, frames)` bool, false where no step predicts the code: the last frames of codebooks
            that are late, with `original_loss`. Their logits are 0.
        code_hits: in evaluation, `(batch, codebooks, 2)`: codes of each row that are the most likely ones, given those
            before, and codes that were to be predicted.
        hidden_states: with `output_hidden_states`, what enters the first layer and what leaves each, before the final
            norm: `(batch, steps, hidden_size)`, where what stands before the codes comes first.
        attentions, cross_attentions: with `output_attentions`, of each layer `(batch, heads, steps, steps)`, and
            `(batch, heads, steps, symbols)` where layers attend to the text.
    """

    loss: Tensor | None = None
    codebook_losses: Tensor | None = None
    logits: Tensor | None = None
    logits_mask: Tensor | None = None
    code_hits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class Condition:
    """What the codes are played under.

    Attributes:
        prefix: `(batch, steps, hidden_size)` that stands before the codes.
        prefix_valid: `(batch, steps)` bool; `None`: all of it.
        memory: `(batch, symbols, hidden_size)` that every layer attends to.
        memory_valid: `(batch, symbols)` bool; `None`: all of it.
    """

    prefix: Tensor | None = None
    prefix_valid: Tensor | None = None
    memory: Tensor | None = None
    memory_valid: Tensor | None = None

    def join(self, other: Condition) -> Condition:
        """The rows of both."""

        def both(one: Tensor | None, two: Tensor | None) -> Tensor | None:
            return None if one is None else torch.cat([one, two])

        return Condition(
            both(self.prefix, other.prefix),
            both(self.prefix_valid, other.prefix_valid),
            both(self.memory, other.memory),
            both(self.memory_valid, other.memory_valid),
        )


@dataclass
class _Playing:
    """State of the loop.

    Attributes:
        condition, cache: see `Condition` and `Transformer`.
        position: `(rows,)` of the next step; `None` before the first.
        valid: `(rows, steps)` bool, false on padding before the codes; `None`: there is none.
    """

    condition: Condition
    cache: Cache | None
    position: Tensor | None = None
    valid: Tensor | None = None


class MusicGenLMForConditionalGeneration(CodecLMPreTrainedModel):
    """MusicGen (Copet et al., 2023), and the released AudioGen: music or sounds of a text, perhaps along a melody.

    The text is read by a T5 that is no part of the model: it is loaded when `input_ids` are first given, or assigned
    to `text_encoder`; its hidden states can be given instead.
    """

    config: MusicGenLMConfig
    config_class = MusicGenLMConfig
    _supports_guidance = True
    _can_record_outputs = recorded()
    # Of native checkpoints, which hold the T5 and the codec; older ones their positions too.
    _keys_to_ignore_on_load_unexpected = {r"^text_encoder\.", r"^audio_encoder\.", r"embed_positions\.weights$"}

    def __init__(self, config: MusicGenLMConfig) -> None:
        super().__init__(config)
        size, dim = config.codebook_size, config.hidden_size
        self._text_encoder: list[nn.Module] = []  # in a list, so that it is neither saved nor trained
        self._home: Home | None = None  # what the model was loaded from, for a T5 that lies beside it
        self.embeddings = nn.ModuleList([nn.Embedding(size + 1, dim) for _ in range(config.num_codebooks)])
        self.text_projection = nn.Linear(config.text_hidden_size, dim)
        self.chroma = self.chroma_projection = None
        if config.num_chroma:
            self.chroma = ChromaExtractor(config.sampling_rate, config.chroma_n_fft, config.num_chroma)
            self.chroma_projection = nn.Linear(config.num_chroma, dim)
        self.transformer = Transformer(
            dim,
            config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            feedforward=dim * config.intermediate_ratio,
            activation="gelu",
            norm_first=True,
            dropout=config.dropout,
            bias=False,
            cross_attention=config.text_condition == "cross_attention",
            config=config,
        )
        self.heads = nn.ModuleList([Linear(dim, size, bias=False) for _ in range(config.num_codebooks)])
        self.post_init()
        self.generation_config.update(do_sample=True, top_k=250, guidance_scale=config.guidance_scale)

    def get_input_embeddings(self) -> nn.Embedding:
        """Of the first codebook's codes; those of the others are added to it."""
        return self.embeddings[0]

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings[0] = value

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """Not supported: it would change the table of one codebook.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} embeds codes, each codebook's in a table of its own: call resize_codebooks. Texts "
            "are embedded by its text_encoder."
        )

    def _code_weights(self) -> list[list[tuple[int, Tensor]]]:
        return [[(k, module.weight) for k, module in enumerate(part)] for part in (self.embeddings, self.heads)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; also reads its own MusicGen checkpoints, with the T5 in them."""
        read_separate_projections(cls.config_class.model_type)
        kwargs["key_mapping"] = {**NATIVE_KEYS, **(kwargs.get("key_mapping") or {})}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if pretrained_model_name_or_path is not None:
            model._home = Home.of(pretrained_model_name_or_path, kwargs)
            if model._native_config() is not None:
                # Here these follow from the configuration.
                names = ("max_length", "pad_token_id", "bos_token_id", "decoder_start_token_id")
                model.generation_config.update(**dict.fromkeys(names))
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """As in transformers; a T5 without a repository of its own goes into the folder `text_encoder`."""
        written = super().save_pretrained(save_directory, **kwargs)
        mine = self.config.text_encoder_name is None and kwargs.get("is_main_process", True)
        if mine and (self._text_encoder or self._text_encoder_lies_beside()):
            self.text_encoder.save_pretrained(Path(save_directory, _TEXT_ENCODER))
        return written

    @property
    def text_encoder(self) -> nn.Module:
        """The T5, on the model's device.

        Raises:
            ValueError: there is none.
        """
        if not self._text_encoder:
            self.text_encoder = self._load_text_encoder()
        return self._text_encoder[0].to(self.device)

    @text_encoder.setter
    def text_encoder(self, encoder: nn.Module) -> None:
        if encoder.config.d_model != self.config.text_hidden_size:
            raise ValueError(
                f"the text encoder is {encoder.config.d_model} wide; the model takes {self.config.text_hidden_size}."
            )
        self._text_encoder[:] = [encoder.eval().requires_grad_(False)]

    def __setattr__(self, name: str, value) -> None:
        if name == "text_encoder":
            # Past torch, which would make it a part of the model.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _load_text_encoder(self) -> PreTrainedModel:
        config = self.config
        if config.text_encoder_name is not None:
            home = Home.of(config.text_encoder_name, {"revision": config.text_encoder_revision})
            return home.load(T5EncoderModel)
        if not self._text_encoder_lies_beside():
            raise ValueError(
                "this model has no text encoder: give its configuration a text_encoder_name, assign a T5EncoderModel "
                "to `text_encoder`, or give encoder_hidden_states in place of input_ids."
            )
        native = self._native_config()
        if native is None:
            return self._home.inside(_TEXT_ENCODER).load(T5EncoderModel)
        config = AutoConfig.for_model(**native[_TEXT_ENCODER])
        return load_part(T5EncoderModel, self._home.name, _TEXT_ENCODER, config, **self._home.access)

    def _text_encoder_lies_beside(self) -> bool:
        if self._home is None:
            return False
        return self._native_config() is not None or self._home.inside(_TEXT_ENCODER).has(CONFIG_NAME)

    def _native_config(self) -> dict | None:
        """The configuration of the checkpoint that the model was loaded from, if it is one of transformers' own."""
        found = self._home.config()
        return found if found.get("model_type") in MusicGenLMConfig.native_types else None

    # --- training ----------------------------------------------------------------------------------------------------

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        melody_values: Tensor | None = None,
        melody_mask: Tensor | None = None,
        **kwargs,
    ) -> MusicGenLMOutput:
        """Predict codes from the codes before them, the text and the melody.

        Args:
            input_ids: `(batch, symbols)` of the T5's tokenizer.
            attention_mask: `(batch, symbols)`, 0 on padding, and on all of an empty text; all ones by default.
            labels: `(batch, codebooks, frames)` codes to predict, -100 after a row's end.
            encoder_hidden_states: `(batch, symbols, text_hidden_size)`, in place of `input_ids`.
            melody_values: `(batch, 1, samples)`, for models that take a melody; none, or silence: no melody.
            melody_mask: `(batch, samples)`, 0 on padding, which stands at the end, and on all of a row without melody.
                By default padding is silence, as in the original, which is repeated like the melody.
            **kwargs: `return_dict`, `output_hidden_states` and `output_attentions` (with the attention implementation
                `"eager"`) as in transformers; `num_items_in_batch` of `transformers.Trainer`: codes of the whole step,
                padding left out.

        Raises:
            ValueError: inputs that do not fit the configuration.
        """
        if labels is None:
            raise ValueError(NO_LABELS)
        self._warn_of_outputs(**kwargs)
        config = self.config
        labels = check_codes("labels", labels, config.codebook_size, config.num_codebooks)
        check_ends("labels", labels)
        states, mask = self._read(input_ids, attention_mask, encoder_hidden_states, len(labels))
        dropped = torch.rand(len(labels), device=labels.device) < (config.condition_dropout if self.training else 0)
        melody = self._read_melody(melody_values, melody_mask, len(labels))
        condition = self._condition(states, mask, melody, dropped)
        pattern = code_patterns.delay(labels.shape[-1], config.delays)
        known = labels.where(labels != NO_CODE, config.special_id)
        sequence = pattern.build(known, config.special_id, only_valid=config.original_loss)
        # Nothing is left to be predicted from the last step.
        stepwise = self._heads(self._run(sequence[..., :-1], condition))
        logits, predicted = pattern.revert_logits(stepwise)
        targets = labels.masked_fill(~predicted, NO_CODE)
        sums = torch.stack([cross_entropy_sum(logits[:, k], targets[:, k]) for k in range(config.num_codebooks)])
        means = sums / (targets != NO_CODE).sum((0, 2)).clamp(min=1)
        items = kwargs.get("num_items_in_batch")
        loss = means.mean() if items is None else sums.sum() / items
        hits = None if self.training else code_hits(logits, targets)
        return MusicGenLMOutput(loss, means, logits, predicted, hits)

    # --- generation --------------------------------------------------------------------------------------------------

    @generates
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        prompt_codes: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        melody_values: Tensor | None = None,
        melody_mask: Tensor | None = None,
        window: int | None = None,
        stride: int | None = None,
        joint_padding: bool = True,
        streamer: BaseStreamer | None = None,
        **kwargs,
    ) -> Tensor | CodecLMGenerateOutput:
        """Play.

        Args:
            input_ids, attention_mask, encoder_hidden_states, melody_values, melody_mask: see `forward`.
            prompt_codes: `(batch, codebooks, frames)` to go on from, -100 after a row's end.
            window: frames of a window, for longer music than that; those of `max_duration` by default.
            stride: frames from window to window; those of `extend_stride` by default. Each window goes on from the
                last `window - stride` frames of the one before, and knows nothing of what was before these.
            joint_padding: rows without condition have a text as long as the others', as in the original; without it,
                of one symbol (the original's `two_step_cfg`). It matters where texts stand before the codes.
            streamer: gets frames as soon as all their codes are there; an `AudioStreamer` makes audio of them.
            **kwargs: fields of `GenerationConfig` (`do_sample`, `guidance_scale`, `temperature`, `top_k`, `top_p`,
                `max_new_tokens` in frames, `output_logits`, `return_dict_in_generate`, ...), `generation_config`,
                `logits_processor`, `stopping_criteria`; `seed`, a number or a `torch.Generator`; `progress`, called
                with the steps done and the steps there are, window by window.

        Returns:
            `(batch, codebooks, frames)` int64 without the prompt; with `return_dict_in_generate`, a
            `CodecLMGenerateOutput`, whose scores and logits are those of the steps of the pattern.

        Raises:
            ValueError: inputs that do not fit the configuration, or unknown arguments.
        """
        config, kwargs = self.config, dict(kwargs)
        decoding = self._decoding(self.device, fillers=1, **kwargs)
        window = int(config.max_duration * config.frame_rate) if window is None else window
        stride = int(config.extend_stride * config.frame_rate) if stride is None else stride
        for name, frames in {"window": window, "stride": stride}.items():
            check_frames(name, frames)
        if not 0 < stride <= window:
            raise ValueError(f"stride must be in 1..{window}, the window; got {stride}.")
        states, mask = self._read(input_ids, attention_mask, encoder_hidden_states, None)
        melodies = self._read_melody(melody_values, melody_mask, len(states))
        prompt = states.new_empty((len(states), config.num_codebooks, 0)).long()
        if prompt_codes is not None:
            prompt = check_codes("prompt_codes", prompt_codes, config.codebook_size, config.num_codebooks)
        lengths = check_ends("prompt_codes", prompt)
        if len(prompt) != len(states):
            raise ValueError(f"prompt_codes has {len(prompt)} rows, the text {len(states)}; give one for each.")
        new = decoding.options.max_new_tokens
        new = window if new is None else new
        total = int(lengths.max()) + new
        codes = nn.functional.pad(prompt, (0, total - prompt.shape[-1]), value=NO_CODE)
        ends, stopped, runs = lengths + new, torch.zeros_like(lengths, dtype=torch.bool), []
        # A row with a shorter prompt ends earlier: alone, nothing would stand beside its last frames.
        beyond = torch.arange(total, device=codes.device) >= ends[:, None]
        codes = codes.masked_fill(codes == NO_CODE, TO_GENERATE).masked_fill(beyond[:, None], config.special_id)
        feed = None if streamer is None else FrameFeed(streamer, codes, lengths)
        known = lengths
        for start in range(0, total, stride):
            end = min(start + window, total)
            if stopped.all():
                break
            if (codes[..., start:end] != TO_GENERATE).all():
                continue
            melody = melodies
            if melody is not None:
                longer = (lengths + new > window).tolist()
                melody = [
                    self._melody_from(row, start, window) if cut else row
                    for row, cut in zip(melody, longer, strict=True)
                ]
            pattern = code_patterns.delay(end - start, config.delays)
            sequence = pattern.build(codes[..., start:end], config.special_id)
            state = self._begin(states, mask, melody, joint_padding, decoding, pattern.length)
            listener = None if feed is None else feed.listener(pattern, start, known, ends)
            limits = pattern.steps_for((ends - start).clamp(0, end - start)).masked_fill(stopped, 0)
            run = self._run_steps(sequence, state, decoding, limits=limits, listener=listener)
            codes[..., start:end] = pattern.revert(run.sequence, config.special_id)
            ends = ends_of_rows(pattern, start, run.ends, run.stopped, known, ends)
            stopped, known = stopped | run.stopped, torch.minimum(known.clamp(min=end), ends)
            runs.append(run)
        frames = int((ends - lengths).clamp(min=0).max())
        if feed is not None:
            feed.feed(frames, ends)
        found = frames_after(codes, lengths, ends, 0, frames)
        if not decoding.options.return_dict_in_generate:
            return found

        def steps(name: str) -> tuple[Tensor, ...] | None:
            parts = [getattr(run, name) for run in runs]
            return None if not parts or parts[0] is None else sum(parts, ())

        return CodecLMGenerateOutput(found, found[:, 0] != NO_CODE, stopped, steps("scores"), steps("logits"))

    def get_unconditional_inputs(self, num_samples: int = 1) -> dict:
        """What `generate` takes to play without a text, so many rows: `generate(**get_unconditional_inputs(2))`.

        As in transformers' own MusicGen; a processor makes such rows of empty texts, too. Neither T5 nor tokenizer is
        needed.
        """
        states = torch.zeros(num_samples, 1, self.config.text_hidden_size, device=self.device)
        # Rows with and without condition would be the same.
        return {"encoder_hidden_states": states, "attention_mask": states[..., 0].long(), "guidance_scale": 1.0}

    def _begin(
        self, states: Tensor, mask: Tensor, melody: list[Tensor] | None, joint: bool, decoding: Decoding, steps: int
    ) -> _Playing:
        """The state before the first of so many steps of a window."""
        nobody = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        condition = self._condition(states, mask, melody, nobody, hide=not joint)
        if decoding.options.guidance_scale not in (None, 1):
            condition = condition.join(self._condition(states, mask, melody, ~nobody, hide=not joint))
        before = 0 if condition.prefix is None else condition.prefix.shape[1]
        memory = None if condition.memory is None else condition.memory.shape[1]
        return _Playing(condition, new_cache(self.config, decoding.options, before + steps, memory))

    def _first_logits(self, ids: Tensor, state: _Playing) -> Tensor:
        return self._heads(self._run(ids, state.condition, state)[:, -1:])[:, :, 0]

    def _next_logits(self, ids: Tensor, state: _Playing) -> Tensor:
        embedded = self._embed(ids) + self._positions(state.position[:, None]).to(self.dtype)
        mask = step_mask(state.cache, state.valid, embedded.device)
        hidden = self._layers(embedded, mask, state.condition, state.cache)
        state.position = state.position + 1
        return self._heads(hidden)[:, :, 0]

    # --- shared ------------------------------------------------------------------------------------------------------

    def _run(self, ids: Tensor, condition: Condition, state: _Playing | None = None) -> Tensor:
        """Ids `(batch, codebooks, steps)` from the first on to hidden states `(batch, steps, hidden_size)`."""
        embedded, steps, valid = self._embed(ids), ids.shape[-1], None
        if condition.prefix is not None:
            embedded = torch.cat([condition.prefix.to(embedded.dtype), embedded], dim=1)
        places = torch.arange(embedded.shape[1], device=ids.device)[None]
        if condition.prefix_valid is not None:
            valid = nn.functional.pad(condition.prefix_valid, (0, steps), value=True)
            # Padding before the codes takes no place.
            places = (valid.cumsum(1) - 1).clamp(min=0)
        embedded = embedded + self._positions(places).to(embedded.dtype)
        mask = segment_mask([(embedded.shape[1], "causal")], valid, ids.device)
        hidden = self._layers(embedded, mask, condition, None if state is None else state.cache)
        if state is not None:
            # In memory of its own, like that of later steps, so that these compile to one graph.
            state.valid, state.position = valid, (places[:, -1] + 1).expand(len(ids)).contiguous()
        return hidden[:, -steps:]

    def _layers(self, x: Tensor, mask: Tensor | None, condition: Condition, cache: Cache | None) -> Tensor:
        valid = condition.memory_valid
        memory_mask = None if valid is None else valid[:, None, None]
        memory = None if condition.memory is None else condition.memory.to(x.dtype)
        return self.transformer(x, mask, memory=memory, memory_mask=memory_mask, past_key_values=cache)

    def _embed(self, ids: Tensor) -> Tensor:
        embedded = self.embeddings[0](ids[:, 0])
        for index in range(1, self.config.num_codebooks):
            embedded = embedded + self.embeddings[index](ids[:, index])
        return embedded

    def _positions(self, places: Tensor) -> Tensor:
        return sinusoidal_positions(places, self.config.hidden_size)

    def _heads(self, hidden: Tensor) -> Tensor:
        return torch.stack([head(hidden) for head in self.heads], dim=1)

    def _read(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, states: Tensor | None, batch: int | None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of the texts, and which of them count."""
        if (input_ids is None) == (states is None):
            raise ValueError(
                "give input_ids or encoder_hidden_states, one of them; get_unconditional_inputs() makes some without "
                "a text."
            )
        given = input_ids if states is None else states
        shape = given.shape[:2]
        mask = torch.ones(shape, device=given.device) if attention_mask is None else attention_mask
        if mask.shape != shape or 0 in shape or (batch is not None and len(mask) != batch):
            raise ValueError(
                f"the text has shape {tuple(shape)}, attention_mask {tuple(mask.shape)}"
                + (f", labels have {batch} rows" if batch else "")
                + "; they must fit, and not be empty."
            )
        if states is None:
            # What an empty text makes of the T5 is not used, but it must see something.
            with torch.no_grad():
                states = self.text_encoder(input_ids, torch.where(mask.any(1, keepdim=True), mask, 1))[0]
        if states.ndim != 3 or states.shape[-1] != self.config.text_hidden_size:
            raise ValueError(
                f"encoder_hidden_states must have shape (batch, symbols, {self.config.text_hidden_size}), got "
                f"{tuple(states.shape)}."
            )
        return states, mask.bool()

    def _condition(
        self, states: Tensor, mask: Tensor, melody: list[Tensor] | None, dropped: Tensor, hide: bool = False
    ) -> Condition:
        """What rows are played under. `dropped` ones go without; `hide`: their text then has one place."""
        counts = mask & ~dropped[:, None]
        text = self.text_projection(states.to(self.dtype)) * counts[..., None]
        valid = None
        if self.config.mask_text_padding or hide:
            valid = counts if self.config.mask_text_padding else mask | ~dropped[:, None]
            # A row without text attends to one zero.
            first = torch.arange(valid.shape[1], device=valid.device) == 0
            valid = torch.where((dropped[:, None] if hide else ~valid.any(1, keepdim=True)), first, valid)
        if self.config.text_condition == "cross_attention":
            return Condition(memory=text, memory_valid=valid)
        if not self.config.num_chroma:
            return Condition(prefix=text, prefix_valid=valid)
        tune = self._tune(melody, dropped)
        if valid is not None:
            valid = nn.functional.pad(valid, (tune.shape[1], 0), value=True)
        return Condition(prefix=torch.cat([tune, text], dim=1), prefix_valid=valid)

    def melody_features(self, melody_values: Tensor) -> Tensor:
        """Melodies `(batch, 1, samples)` to one-hot pitch classes `(batch, chroma_frames, num_chroma)`."""
        features, frames = self.chroma(melody_values[:, 0]), self.config.chroma_frames
        return features.repeat(1, -(-frames // features.shape[1]), 1)[:, :frames]

    def _read_melody(self, values: Tensor | None, mask: Tensor | None, batch: int) -> list[Tensor] | None:
        """The melody of each row `(1, samples)`, no samples where there is none."""
        if values is None:
            return None
        if not self.config.num_chroma:
            raise ValueError("this model takes no melody: its num_chroma is 0.")
        if values.ndim != 3 or values.shape[1] != 1 or not values.shape[-1]:
            raise ValueError(f"melody_values must have shape (batch, 1, samples), got {tuple(values.shape)}.")
        if len(values) != batch or (mask is not None and mask.shape != values[:, 0].shape):
            shape = None if mask is None else tuple(mask.shape)
            raise ValueError(
                f"melody_values has shape {tuple(values.shape)}, melody_mask {shape}, for {batch} rows; they must fit."
            )
        if mask is None:
            return list(values)
        return [row[:, :length] for row, length in zip(values, mask.bool().sum(-1).tolist(), strict=True)]

    def _tune(self, melody: list[Tensor] | None, dropped: Tensor) -> Tensor:
        # No melody is silence, which is the first pitch class throughout.
        silence = self.melody_features(torch.zeros(1, 1, 1, device=dropped.device))
        features = silence.expand(len(dropped), -1, -1)
        if melody is not None:
            rows = [self.melody_features(row[None]) if row.shape[-1] else silence for row in melody]
            features = torch.where(dropped[:, None, None], silence, torch.cat(rows))
        return self.chroma_projection(features.to(self.dtype))

    def _melody_from(self, melody: Tensor, start: int, frames: int) -> Tensor:
        """A window of a melody `(1, samples)`, which is read in a circle."""
        if not melody.shape[-1]:
            return melody
        per_frame = self.config.sampling_rate / self.config.frame_rate
        samples = torch.arange(int(frames * per_frame), device=melody.device)
        return melody[..., (samples + int(start * per_frame)) % melody.shape[-1]]

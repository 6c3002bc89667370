"""The contract of every codec language model: losses, and one loop that generates codes of any order."""

from __future__ import annotations

import copy
import math
import operator
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    MaxTimeCriteria,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers import initialization as init
from transformers.utils import ModelOutput, logging

from ..configuration.lm_base import CodecLMConfig
from ..hub import HubModelMixin
from .codec_base import CodecPreTrainedModel
from .layers.adaptive_norm import AdaptiveLayerNorm
from .layers.chroma import ChromaExtractor
from .layers.factorized import FactorizedEmbedding, FactorizedHead
from .layers.linear import Float16Linear, Int8Linear, to_float16, to_int8
from .layers.positions import ScaledPositions
from .layers.stft import HannWindow

# Stands where a row has no code: labels are not predicted there, generated codes have ended.
NO_CODE = -100
NO_LABELS = (
    "give labels: the codes, from which the model is taught. transformers' Trainer keeps them from a model with "
    "label_smoothing_factor or compute_loss_func: leave these out. To generate codes, call generate."
)
# Stands in a sequence of the generation loop where a code is to be generated.
TO_GENERATE = -1

# Fields of GenerationConfig for other ways of decoding than the loop's, and the values that ask for nothing.
_ONLY = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "stop_strings": None,
    "token_healing": False,
    "prompt_lookup_num_tokens": None,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "watermarking_config": None,
}
_INSTEAD = {
    "max_length": "give max_new_tokens, in frames",
    "eos_token_id": "what ends speech is fixed in a model's configuration",
}

# Which transformers ignores where they are no share of the probability, 1.5 or NaN.
_SHARES = ("top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
# Room is made for all frames at once: a day of them at 50 Hz.
_MOST_FRAMES = 1 << 22

logger = logging.get_logger(__name__)


@dataclass
class CodecLMGenerateOutput(ModelOutput):
    """Output of `generate` with `return_dict_in_generate=True`.

    Attributes:
        sequences: `(batch, codebooks, frames)` int64, the codes; `NO_CODE` (-100) after a row's end.
        codes_mask: `(batch, frames)` bool, true on frames that belong to the row.
        stopped: `(batch,)` bool, whether the row ended by itself instead of reaching its limit.
        scores: with `output_scores`, for each step `(batch, slots, vocabulary)`, what was sampled from.
        logits: with `output_logits`, for each step `(batch, slots, vocabulary)`, what the model said (after guidance).
        level_logits: with `output_logits`, for each codebook that is not generated step by step
            `(batch, frames, vocabulary)`.
    """

    sequences: Tensor | None = None
    codes_mask: Tensor | None = None
    stopped: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    level_logits: tuple[Tensor, ...] | None = None


@dataclass
class Decoding:
    """How to choose codes; made by `CodecLMPreTrainedModel._decoding` of what `generate` was given.

    Attributes:
        options: transformers' own.
        processors, criteria: of transformers; they see one row for every row and slot.
        generator: that draws.
        progress: called after each step with the steps done and the steps there are at most.
        fillers: ids beyond the vocabulary that fill empty places of a sequence.
    """

    options: GenerationConfig
    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)
    criteria: StoppingCriteriaList = field(default_factory=StoppingCriteriaList)
    generator: torch.Generator | None = None
    progress: Callable[[int, int], None] | None = None
    fillers: int = 0

    def choose(self, history: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of the next step.

        Args:
            history: `(batch, slots, steps)` ids of the steps before.
            logits: `(batch, slots, vocabulary)` float32.

        Returns:
            Codes `(batch, slots)`, and the scores that they were chosen by, of the shape of the logits.
        """
        batch, slots, vocabulary = logits.shape
        # Ids that fill empty places are in the history of processors, so they must have scores.
        scores = F.pad(logits, (0, self.fillers), value=-torch.inf).flatten(0, 1)
        scores = self.processors(history.flatten(0, 1), scores)[:, :vocabulary]
        chosen = self.draw(scores.softmax(-1)) if self.options.do_sample else scores.argmax(-1)
        return chosen.unflatten(0, (batch, slots)), scores.unflatten(0, (batch, slots))

    def draw(self, probabilities: Tensor) -> Tensor:
        """One class `(rows,)` of each row of `probabilities` `(rows, classes)`."""
        there = probabilities.to(self.generator.device if self.generator else probabilities.device)
        return torch.multinomial(there, 1, generator=self.generator)[:, 0].to(probabilities.device)


@dataclass
class Steps:
    """What the loop gives.

    Attributes:
        sequence: `(batch, slots, steps)` with nothing left to generate, as far as `ends` goes.
        ends: `(batch,)`, the step at which each row ended.
        stopped: `(batch,)` bool, whether it did so by itself.
        scores, logits: of each step, `(batch, slots, vocabulary)`, where they were asked for.
    """

    sequence: Tensor
    ends: Tensor
    stopped: Tensor
    scores: tuple[Tensor, ...] | None
    logits: tuple[Tensor, ...] | None


class CodecLMPreTrainedModel(HubModelMixin, PreTrainedModel, GenerationMixin):
    """Base of every codec language model.

    A family defines `forward(..., labels)` with its loss (and in evaluation `code_hits`, see there), `generate(...)`,
    `_first_logits(ids, state)` and `_next_logits(ids, state)`.
    """

    config: CodecLMConfig
    base_model_prefix = "codec_lm"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    output_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = False
    _can_compile_fullgraph = True
    _no_split_modules = ["TransformerLayer"]
    _supports_guidance = False

    def __init__(self, config: CodecLMConfig) -> None:
        super().__init__(config)
        # By the names of the classes, transformers would take it for a loss that shifts the labels: its Trainer would
        # not count the first frame of a row, and divide by too few codes, or by none.
        self.loss_type = None

    @classmethod
    def can_generate(cls) -> bool:
        """They all do; transformers looks for its mixin among the direct bases only."""
        return True

    def _warn_of_outputs(self, **kwargs) -> None:
        """Say so where attention weights are asked for that the attention function does not have."""
        flags = [name for name in (f"output_{output}" for output in self._can_record_outputs) if "attentions" in name]
        asked = [name for name in flags if kwargs.get(name, getattr(self.config, name, False))]
        implementation = self.config._attn_implementation
        if asked and implementation != "eager":
            logger.warning_once(
                f"{asked[0]} gives nothing with the attention implementation {implementation!r}; for attention "
                "weights call model.set_attn_implementation('eager')."
            )

    @torch.no_grad()
    def to_float16(self) -> CodecLMPreTrainedModel:
        """Keep the weights of linear layers in half precision, in place: for inference on a CPU, exactly.

        There a step of generation takes as long as reading the weights does, if there are few rows, and these are half
        as many bytes. Arithmetic stays float32, so results are what they were up to the order of sums. It is for
        float32 weights that are half-precision numbers, as those are that come from a checkpoint in half precision;
        layers with other weights stay as they are, which `model.half().float()` rounds before. As for `to_int8`, such
        a model is made anew after loading, and is neither trained nor saved.

        Returns:
            The model.

        Raises:
            ValueError: after `to_int8` or `to_float16`, or with adapters.
        """
        self._check_packable()
        to_float16(self)
        if not self._is_packed():
            logger.warning(
                "to_float16 changes nothing here: it is for float32 models on an x86 CPU whose weights half precision "
                "holds exactly; model.half().float() rounds others."
            )
        return self.eval().requires_grad_(False)

    @torch.no_grad()
    def to_int8(self) -> CodecLMPreTrainedModel:
        """Round the weights of all linear layers to eight bits, in place: for inference on a CPU.

        There a step of generation takes as long as reading the weights does, if there are few rows. Such a model is
        made anew after loading: it is neither trained nor saved. See `benchmarks/README.md` for the gain and the loss.

        Returns:
            The model.

        Raises:
            ValueError: after `to_int8` or `to_float16`, or with adapters.
        """
        self._check_packable()
        to_int8(self)
        return self.eval().requires_grad_(False)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """As in transformers.

        Raises:
            ValueError: after `to_int8` or `to_float16`.
        """
        self._refuse_packed("saved")
        return super().save_pretrained(save_directory, **kwargs)

    def _is_packed(self) -> bool:
        return any(isinstance(part, (Float16Linear, Int8Linear)) for part in self.modules())

    def _check_packable(self) -> None:
        self._refuse_packed("packed again")
        # PEFT's name for the layer that an adapter wraps. It casts what it computes to the type of its weights.
        wrapped = [name for name, part in self.named_modules() if hasattr(part, "base_layer")]
        if wrapped:
            raise ValueError(
                f"{wrapped[0]} has an adapter, which to_int8() and to_float16() would spoil: merge adapters before "
                "(merge_and_unload() of PEFT's model), or take them off."
            )

    def _refuse_packed(self, purpose: str) -> None:
        if self._is_packed():
            raise ValueError(
                f"weights that to_int8() or to_float16() packed cannot be {purpose}: load the model anew, or save the "
                "model before to_int8() and to_float16()."
            )

    def resize_codebooks(self, num_codebooks: int | None = None, codebook_size: int | None = None) -> None:
        """Make the model one for another codec, as `resize_token_embeddings` does for another tokenizer.

        Embeddings and heads of codes and of codebooks that both codecs have are kept, as is what stands for no code;
        others start anew. For a while there are two models in memory. An optimizer that was made before knows the old
        weights only.

        Args:
            num_codebooks: codes per frame; as many as before by default.
            codebook_size: entries per codebook; as many as before by default.

        Raises:
            StrictDataclassError: sizes that cannot be.
            ValueError: weights that are not the model's own.
        """
        old = self.config
        count = old.num_codebooks if num_codebooks is None else num_codebooks
        size = old.codebook_size if codebook_size is None else codebook_size
        fresh = type(self)(old.resized(count, size)).to(self.device, self.dtype).train(self.training)
        before, after = self.state_dict(), fresh.state_dict()
        lost, new = before.keys() - after.keys(), after.keys() - before.keys()
        if (lost and count >= old.num_codebooks) or (new and count <= old.num_codebooks):
            raise ValueError(
                f"the weights {sorted(lost)[:3]} are not {type(self).__name__}'s own; take adapters off before "
                "resize_codebooks, or merge them."
            )
        for name in before.keys() & after.keys():
            weight, theirs = before[name], after[name]
            if weight.shape == theirs.shape:
                theirs.copy_(weight)
                continue
            # A row for each code, and after them rows for what is no code.
            kept = min(size, old.codebook_size)
            theirs[:kept].copy_(weight[:kept])
            theirs[size:].copy_(weight[old.codebook_size :])
        for name in ("config", "_modules", "_tied_weights_keys", "all_tied_weights_keys"):
            setattr(self, name, getattr(fresh, name))
        # transformers' mark that layers have been hooked; the new ones have not.
        self._output_capturing_hooks_installed = False

    @torch.no_grad()
    def start_from_codec(self, codec: CodecPreTrainedModel) -> None:
        """Let a fresh model know which codes sound alike, before it is trained.

        Its embeddings and heads of codes become random projections of the codec's codebooks, as large as they were. It
        is meant for little data, which has few examples of each code.

        Args:
            codec: that made the codes; its sizes are the model's, except that it may have more codebooks.

        Raises:
            ValueError: another number of entries, or too few codebooks.
        """
        count, size = self.config.num_codebooks, self.config.codebook_size
        if codec.config.codebook_size != size or codec.config.num_codebooks < count:
            raise ValueError(
                f"the model is for {count} codebooks of {size} entries, the codec has "
                f"{codec.config.num_codebooks} of {codec.config.codebook_size}."
            )
        vectors = codec.code_vectors(count).to(self.device, self.dtype)
        vectors = vectors - vectors.mean(1, keepdim=True)
        done = set()  # a head that is tied to an embedding is what that is
        for weights in self._code_weights():
            # Which keeps distances, where there is room.
            projection = nn.init.orthogonal_(torch.empty(vectors.shape[-1], weights[0][1].shape[1])).to(vectors)
            for codebook, weight in weights:
                if weight not in done:
                    projected = vectors[codebook] @ projection
                    weight[:size] = projected * (weight[:size].std() / projected.std())
                    done.add(weight)

    @abstractmethod
    def _code_weights(self) -> list[list[tuple[int, Tensor]]]:
        """Tables with a row for each code and their codebook, in groups: within one, codebooks share a space."""

    @abstractmethod
    def _first_logits(self, ids: Tensor, state: Any) -> Tensor:
        """What the model says of the step after a beginning.

        Args:
            ids: `(rows, slots, steps)`, all steps before; with guidance, there are twice as many rows, the second half
                of which go without their condition.
            state: the family's own: conditions, and a cache that is added to, if there is one.

        Returns:
            `(rows, slots, vocabulary)`.
        """

    @abstractmethod
    def _next_logits(self, ids: Tensor, state: Any) -> Tensor:
        """What it says of the step after those that the cache has seen and the one in `ids`, `(rows, slots, 1)`.

        With a static cache, `torch.compile` makes one graph of it.
        """

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ScaledPositions):
            init.ones_(module.alpha)
        if isinstance(module, (HannWindow, ChromaExtractor)):
            module.reset()
        if isinstance(module, AdaptiveLayerNorm):
            identity = torch.zeros_like(module.projection.bias)
            identity[: len(identity) // 2] = 1
            init.copy_(module.projection.bias, identity)
        # As large as without the narrow table: what an embedding gives, and what a head makes of a step.
        if isinstance(module, FactorizedEmbedding):
            init.normal_(module.weight)
            init.normal_(module.projection.weight, std=module.projection.in_features**-0.5)
        if isinstance(module, FactorizedHead):
            init.normal_(module.weight, std=module.projection.out_features**-0.5)

    def _decoding(
        self,
        device: torch.device,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        seed: int | torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
        end_id: int | None = None,
        fillers: int = 0,
        **kwargs,
    ) -> Decoding:
        """What `generate` was given, checked. `device` is that of ids, if one of them ends rows: `end_id`.

        Raises:
            ValueError: an argument that no `GenerationConfig` has, or a way of decoding that the loop does not know.
        """
        options, unknown = self._prepare_generation_config(generation_config, **kwargs)
        if unknown:
            raise ValueError(
                f"{type(self).__name__}.generate has no argument {', '.join(map(repr, sorted(unknown)))}; it takes "
                "its own inputs (see its docstring) and the fields of GenerationConfig."
            )
        given = {} if generation_config is None else generation_config.to_diff_dict()
        asked = {"max_length": self.generation_config.max_length, **given, **kwargs}
        self._check_options(options, asked)
        for name in ("min_length", "exponential_decay_length_penalty"):
            if end_id is None and getattr(options, name):
                raise ValueError(
                    f"{name}={getattr(options, name)} is not supported: no code of this model ends a row; give "
                    "min_new_tokens or max_new_tokens."
                )
        options.eos_token_id = options.pad_token_id = end_id
        options.bos_token_id = None
        self._prepare_special_tokens(options, device=device)
        guidance, options.guidance_scale = options.guidance_scale, None
        with warnings.catch_warnings():
            # They warn of prompts that they do not see; what is in the sequence, they do see here.
            warnings.filterwarnings("ignore", message=".*inputs_embeds.*")
            processors = self._get_logits_processor(options, 0, None, None, logits_processor, device, {})
        options.guidance_scale = guidance
        criteria = StoppingCriteriaList(stopping_criteria or [])
        if options.max_time is not None:
            criteria.append(MaxTimeCriteria(options.max_time))
        return Decoding(options, processors, criteria, _generator(seed), progress, fillers)

    def _check_options(self, options: GenerationConfig, asked: dict) -> None:
        """Refuse what the loop would not do. `options` have their defaults, `asked` is what somebody gave."""
        for name, only in _ONLY.items():
            if getattr(options, name, None) not in (None, only):
                raise ValueError(f"{name}={getattr(options, name)} is not supported by codec LMs; leave it at {only}.")
        for name, instead in _INSTEAD.items():
            if asked.get(name) is not None:
                raise ValueError(f"{name}={asked[name]} is not supported by codec LMs; {instead}.")
        for name in ("max_new_tokens", "min_new_tokens"):
            if getattr(options, name) is not None:
                check_frames(name, getattr(options, name))
        for name in _SHARES:
            value = getattr(options, name, None)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} is no share of the probability; give a number from 0 to 1.")
        if options.temperature is not None and not math.isfinite(options.temperature):
            raise ValueError(f"temperature={options.temperature} is not finite; give a number above 0.")
        if options.max_new_tokens is not None and options.max_new_tokens > _MOST_FRAMES:
            raise ValueError(
                f"max_new_tokens={options.max_new_tokens} is more than {_MOST_FRAMES} frames; generate less at once."
            )
        if options.cache_implementation not in (None, "dynamic", "static"):
            raise ValueError(
                f"cache_implementation={options.cache_implementation!r} is not supported by codec LMs; it is "
                "'dynamic' or 'static'."
            )
        if options.compile_config is not None and (options.cache_implementation != "static" or not options.use_cache):
            raise ValueError("compile_config needs cache_implementation='static': other caches change their shapes.")
        if not self._supports_guidance and options.guidance_scale not in (None, 1):
            raise ValueError(
                f"guidance_scale={options.guidance_scale} is not supported: {type(self).__name__} has not learned to "
                "go without its condition; leave it at 1."
            )

    def _run_steps(
        self,
        sequence: Tensor,
        state: Any,
        decoding: Decoding,
        end_id: int | None = None,
        limits: Tensor | None = None,
        stop_on_argmax: bool = False,
        listener: Callable[[Tensor, int, Tensor, Tensor], None] | None = None,
    ) -> Steps:
        """Generate what is missing in a sequence, step by step.

        Args:
            sequence: `(batch, slots, steps)`: known ids, and `TO_GENERATE` in the place of others. Which code a place
                stands for is a matter of the `CodePattern` that built it.
            state: for `_first_logits` and `_next_logits`.
            decoding: how to choose.
            end_id: a row ends where this is generated; `None`: it has all the steps.
            limits: `(batch,)`, steps that a row has at most.
            stop_on_argmax: a row also ends where `end_id` is most likely, whatever was drawn.
            listener: called after each step with the sequence, its known steps, the steps at which rows end
                and whether they did so by themselves.
        """
        sequence, (batch, _, length) = sequence.clone(), sequence.shape
        ends = torch.full((batch,), length, device=sequence.device) if limits is None else limits.clamp(max=length)
        stopped = torch.zeros_like(ends, dtype=torch.bool)
        missing = (sequence == TO_GENERATE).any(1).any(0)
        start = int(missing.nonzero()[0]) if missing.any() else length
        options, all_scores, all_logits = decoding.options, [], []
        ids, beginning, say, say_next = sequence[..., :start], copy.copy(state), self._first_logits, self._next_logits
        if options.compile_config is not None:
            say_next = torch.compile(say_next, **options.compile_config.to_dict())
        for step in range(start, length):
            if not (step < ends).any():
                break
            logits = self._guided_logits(say, ids, state, options.guidance_scale)
            chosen, scores = decoding.choose(sequence[..., :step], logits)
            places = sequence[..., step]
            free = places == TO_GENERATE
            if end_id is not None:
                said = chosen == end_id
                if stop_on_argmax:
                    # Unless a processor forbids it here, as `min_new_tokens` does.
                    said = said | ((logits.argmax(-1) == end_id) & (scores[..., end_id] > -torch.inf))
                now = (said & free).any(1) & (step < ends)
                ends, stopped = ends.masked_fill(now, step), stopped | now
                chosen = chosen.masked_fill((step >= ends)[:, None], end_id)
            sequence[..., step] = torch.where(free, chosen, places)
            if decoding.criteria:
                rows = decoding.criteria(sequence[..., : step + 1].flatten(0, 1), scores.flatten(0, 1))
                now = rows.unflatten(0, (batch, -1)).any(1) & (step < ends)
                ends, stopped = ends.masked_fill(now, step + 1), stopped | now
            if options.output_scores:
                all_scores.append(scores)
            if options.output_logits:
                all_logits.append(logits)
            if options.use_cache:
                ids, say = sequence[..., step : step + 1], say_next
            else:
                ids, state = sequence[..., : step + 1], copy.copy(beginning)
            if listener is not None:
                listener(sequence, step + 1, ends, stopped)
            if decoding.progress is not None:
                decoding.progress(step + 1, length)
        return Steps(
            sequence,
            ends,
            stopped,
            tuple(all_scores) if options.output_scores else None,
            tuple(all_logits) if options.output_logits else None,
        )

    def _guided_logits(
        self, say: Callable[[Tensor, Any], Tensor], ids: Tensor, state: Any, scale: float | None
    ) -> Tensor:
        """Classifier-free guidance (Ho and Salimans, 2022), both halves in one batch."""
        if scale is None or scale == 1:
            return say(ids, state).float()
        return guided(say(ids.repeat(2, 1, 1), state), scale)


def _generator(seed: int | torch.Generator | None) -> torch.Generator | None:
    if seed is None or isinstance(seed, torch.Generator):
        return seed
    try:
        number = operator.index(seed)  # numpy's numbers are ones, too
    except TypeError:
        raise ValueError(f"seed must be a whole number or a torch.Generator, got {seed!r}.") from None
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"seed must lie from -2**63 to below 2**64, got {number}.")
    return torch.Generator().manual_seed(number)


def check_frames(name: str, frames: int) -> None:
    """Refuse a number of frames that is none, as seconds times the rate of frames often are."""
    try:
        operator.index(frames)
    except TypeError:
        raise ValueError(f"{name} must be a whole number of frames, got {frames!r}.") from None


def guided(logits: Tensor, scale: float) -> Tensor:
    """Of twice as many rows, the second half of which go without their condition, what guidance makes of each."""
    given, free = logits.float().chunk(2)
    return free + scale * (given - free)


def check_codes(name: str, codes: Tensor, size: int, count: int, exact: bool = True) -> Tensor:
    """Codes as int64, which embeddings and losses need, from integers of any type; refuses codes that do not fit.

    Args:
        name: of the argument, for the message.
        codes: `(batch, codebooks, frames)`, `NO_CODE` where a row has ended.
        size: entries per codebook.
        count: codebooks.
        exact: all of them must be there.

    Raises:
        ValueError: a wrong shape, type or range.
    """
    fits = codes.ndim == 3 and codes.numel() and (codes.shape[1] == count or (not exact and codes.shape[1] < count))
    if not fits:
        how_many = f"{count} codebooks" if exact else f"at most {count} codebooks"
        raise ValueError(
            f"{name} must have shape (batch, codebooks, frames), not empty and with {how_many}; "
            f"got {tuple(codes.shape)}."
        )
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {codes.dtype}.")
    codes = codes.long()
    if torch.compiler.is_compiling():
        return codes
    known = codes[codes != NO_CODE]
    if known.numel() and (known.min() < 0 or known.max() >= size):
        raise ValueError(
            f"{name} must lie in 0..{size - 1} ({NO_CODE} where a row has ended), found {int(known.min())} to "
            f"{int(known.max())}; is it another codec than the model's?"
        )
    return codes


def check_ends(name: str, codes: Tensor) -> Tensor:
    """Frames of each row `(batch,)` of `codes` `(batch, codebooks, frames)`, which end in `NO_CODE`, all at once.

    Raises:
        ValueError: a row has no frames, or codes after its end.
    """
    valid = codes != NO_CODE
    lengths = valid[:, 0].sum(-1)
    whole = torch.arange(codes.shape[-1], device=codes.device) < lengths[:, None]
    if not torch.equal(valid, whole[:, None].expand_as(valid)):
        raise ValueError(f"{name}: {NO_CODE} pads the end of a row, in all codebooks alike; it stands elsewhere.")
    return lengths


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over labels `(...)` but `NO_CODE` of the cross entropy of `logits` `(..., vocabulary)`, in float32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=NO_CODE, reduction="sum")


@torch.no_grad()
def code_hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How many of the targets but `NO_CODE` are the most likely codes, and how many there are.

    Args:
        logits: `(..., frames, vocabulary)`.
        targets: `(..., frames)`.

    Returns:
        `(..., 2)` int64.
    """
    counted = targets != NO_CODE
    hits = (logits.argmax(-1) == targets) & counted
    return torch.stack([hits.sum(-1), counted.sum(-1)], dim=-1)

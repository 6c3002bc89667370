"""One table of tiny codec language models; every common test of them runs over all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codec_lm_hf import MusicGenLMProcessor, ValleProcessor
from codec_lm_hf.modeling import code_patterns
from codec_lm_hf.modeling.lm_base import NO_CODE
from codec_lm_hf.registry import family
from tests.common.tiny import TINY
from tests.common.tiny_text import tiny_text_encoder, tiny_tokenizer

TEXTS = ["rain on a roof", "dogs"]


@dataclass(frozen=True)
class TinyLM:
    """A configuration small enough to test everything with, and what its family takes.

    Attributes:
        family: of the registry.
        fields: of the configuration.
        inputs: configuration and lengths of rows (in frames) to what `forward` takes, labels included.
        prompts: what `forward` takes to what `generate` takes, and the codes that it should give after overfitting.
        logits_of: model, what `generate` takes (one row) and the output that it gave, to the logits of its steps and
            those of one pass over everything, both in one order.
        paired: this to the model and its processor, with all that goes with them: a codec that fits, and what reads
            `TEXTS`.
        reproduced: codebooks that generation reproduces after overfitting; `None`: all.
        ends: rows end by themselves.
    """

    family: str
    fields: dict = field(default_factory=dict)
    inputs: Callable[..., dict] = None
    prompts: Callable[[dict], tuple[dict, Tensor]] = None
    logits_of: Callable[..., Tensor] = None
    paired: Callable[[TinyLM], tuple] = None
    reproduced: int | None = None
    ends: bool = True

    def config(self, **overrides):
        return family(self.family).load("config")(**{**self.fields, **overrides})

    @property
    def model_class(self):
        return family(self.family).load("model")

    def model(self, **overrides):
        torch.manual_seed(0)
        return self.model_class(self.config(**overrides)).eval()

    def pair(self) -> tuple:
        return self.paired(self)

    def batch(self, lengths: list[int]) -> dict:
        return self.inputs(self.config(), lengths)


def random_codes(config, lengths: list[int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), config.num_codebooks, max(lengths))
    codes = torch.randint(config.codebook_size, shape, generator=generator)
    ended = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    return codes.masked_fill(ended[:, None], NO_CODE)


def rows(inputs: dict, row: int) -> dict:
    """What belongs to one row, without its padding."""
    alone = {name: value[row : row + 1] for name, value in inputs.items()}
    for name, value in alone.items():
        if name in ("labels", "prompt_codes"):
            alone[name] = value[..., value[0, 0] != NO_CODE]
    if "attention_mask" in alone:
        kept = alone["attention_mask"][0].bool()
        for name in ("attention_mask", "input_ids", "durations", "encoder_hidden_states"):
            if name in alone:
                alone[name] = alone[name][:, kept]
    return alone


def tiny_codec(num_codebooks: int, codebook_size: int, sampling_rate: int = 800):
    """A codec for a tiny language model, of 50 frames a second."""
    fields = {"upsampling_ratios": (4, sampling_rate // 200), "sampling_rate": sampling_rate}
    return TINY["encodec"].model(num_quantizers=num_codebooks, codebook_size=codebook_size, **fields)


# --- VALL-E --------------------------------------------------------------------------------------------------------

_VALLE = {
    "vocab_size": 12,
    "num_codebooks": 3,
    "codebook_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "dropout": 0.0,
    "initializer_range": 0.1,
}
_PROMPT = 3


def _valle_inputs(config, lengths: list[int]) -> dict:
    generator = torch.Generator().manual_seed(1)
    symbols = [5 + row % 3 for row in range(len(lengths))]
    mask = (torch.arange(max(symbols)) < torch.tensor(symbols)[:, None]).long()
    ids = torch.randint(3, config.vocab_size, mask.shape, generator=generator) * mask
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": random_codes(config, lengths)}
    if config.prefix_mode == 4:
        inputs["prompt_codes"] = random_codes(config, [2 + row % 2 for row in range(len(lengths))], seed=2)
    return inputs


def _valle_prompts(inputs: dict) -> tuple[dict, Tensor]:
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    codes = inputs["labels"]
    given["prompt_codes"] = codes[..., :_PROMPT]
    # The begin and the end of an empty text.
    given["prompt_text_lengths"] = torch.full((len(codes),), 2)
    return given, codes[..., _PROMPT:]


def _valle_logits(model, given: dict, found) -> tuple[Tensor, Tensor]:
    whole = torch.cat([given["prompt_codes"], found.sequences], dim=-1)
    model.config.train_stage = "ar"
    logits = model(given["input_ids"], given["attention_mask"], labels=whole).logits
    model.config.train_stage = "both"
    first = given["prompt_codes"].shape[-1] - (0 if model.config.prepend_bos else 1)
    steps = torch.stack(found.logits, dim=1)[:, :, 0]
    count = min(steps.shape[1], logits.shape[1] - first)
    return steps[:, :count], logits[:, first : first + count]


def _valle_pair(case: TinyLM) -> tuple:
    symbols = ValleProcessor.symbols_of(TEXTS)
    model = case.model(vocab_size=len(symbols))
    processor = ValleProcessor(symbols, num_codebooks=3, codebook_size=20)
    processor.codec = tiny_codec(3, 20)
    return model, processor


def _aligned_inputs(config, lengths: list[int]) -> dict:
    inputs = _valle_inputs(config, lengths)
    mask = inputs["attention_mask"]
    # A frame for each symbol but the one before the last, which has no sound; the first one lasts longer.
    durations = mask.clone()
    durations[torch.arange(len(mask)), mask.sum(1) - 2] = 0
    durations[:, 0] += torch.tensor(lengths) - durations.sum(1)
    return {**inputs, "durations": durations}


def _aligned_prompts(inputs: dict) -> tuple[dict, Tensor]:
    given = {name: inputs[name] for name in ("input_ids", "attention_mask", "prompt_codes")}
    return given, inputs["labels"]


def _aligned_logits(model, given: dict, found) -> tuple[Tensor, Tensor]:
    model.config.train_stage = "ar"
    logits = model(**given, labels=found.sequences, durations=found.durations).logits
    model.config.train_stage = "both"
    steps = torch.stack(found.logits, dim=1)[:, :, 0]
    return steps, logits[:, given["prompt_codes"].shape[-1] - (0 if model.config.prepend_bos else 1) :]


def _valle_aligned(**fields) -> TinyLM:
    fields = {**_VALLE, "prefix_mode": 4, "monotonic_alignment": True, **fields}
    return TinyLM("valle", fields, _aligned_inputs, _aligned_prompts, _aligned_logits, _valle_pair)


def _valle(**fields) -> TinyLM:
    # In modes 2 and 4 the second transformer is trained on whole utterances after a prompt; here it gets the rest of
    # one after its beginning.
    reproduced = 1 if fields["prefix_mode"] in (2, 4) else None
    functions = (_valle_inputs, _valle_prompts, _valle_logits, _valle_pair)
    return TinyLM("valle", {**_VALLE, **fields}, *functions, reproduced)


# --- MusicGen, AudioGen --------------------------------------------------------------------------------------------

_MUSICGEN = {
    "num_codebooks": 4,
    "codebook_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "text_hidden_size": 12,
    "sampling_rate": 800,
    "frame_rate": 50,
    "max_duration": 1,
    "extend_stride": 0.5,
    "condition_dropout": 0.1,
    "initializer_range": 0.1,
    # As the original has it, rows depend on the padding of the others, and losses on the length of the longest.
    "mask_text_padding": True,
    "original_loss": False,
}
_STEREO = {"num_codebooks": 8, "delays": (0, 0, 1, 1, 2, 2, 3, 3), "audio_channels": 2}
_MELODY = {"text_condition": "prefix", "num_chroma": 12, "chroma_n_fft": 64}


def _musicgen_inputs(config, lengths: list[int]) -> dict:
    generator = torch.Generator().manual_seed(1)
    symbols = [2 + row % 3 for row in range(len(lengths))]
    mask = (torch.arange(max(symbols)) < torch.tensor(symbols)[:, None]).long()
    states = torch.randn(*mask.shape, config.text_hidden_size, generator=generator)
    inputs = {"encoder_hidden_states": states, "attention_mask": mask, "labels": random_codes(config, lengths)}
    if config.num_chroma:
        inputs["melody_values"] = torch.randn(len(lengths), 1, 600, generator=generator)
    return inputs


def _musicgen_prompts(inputs: dict) -> tuple[dict, Tensor]:
    given = {name: value for name, value in inputs.items() if name != "labels"}
    given["prompt_codes"] = inputs["labels"][..., :_PROMPT]
    return given, inputs["labels"][..., _PROMPT:]


def _musicgen_logits(model, given: dict, found) -> tuple[Tensor, Tensor]:
    """In the order of the codes that the prompt does not hold."""
    codes = torch.cat([given["prompt_codes"], found.sequences], dim=-1)
    given = {name: value for name, value in given.items() if name != "prompt_codes"}
    silent = {name: torch.zeros_like(value) for name, value in given.items()}
    free, guided = (model(**condition, labels=codes).logits for condition in (silent, given))
    whole = free + model.config.guidance_scale * (guided - free)
    # Generation begins with the step that holds the first new code.
    steps = torch.stack(found.logits, dim=2)
    steps = torch.cat([torch.zeros_like(steps[:, :, :_PROMPT]), steps], dim=2)
    pattern = code_patterns.delay(codes.shape[-1], model.config.delays)
    return pattern.revert_logits(steps)[0][:, :, _PROMPT:], whole[:, :, _PROMPT:]


def _musicgen_pair(case: TinyLM) -> tuple:
    model = case.model(text_encoder_name=None)
    model.text_encoder = tiny_text_encoder(model.config.text_hidden_size)
    processor = MusicGenLMProcessor.from_config(model.config)
    processor.tokenizer = tiny_tokenizer()
    processor.codec = tiny_codec(4, 20)
    return model, processor


def _musicgen(name: str = "musicgen", **fields) -> TinyLM:
    functions = (_musicgen_inputs, _musicgen_prompts, _musicgen_logits, _musicgen_pair)
    return TinyLM(name, {**_MUSICGEN, **fields}, *functions, ends=False)


TINY_LM: dict[str, TinyLM] = {
    "valle": _valle(prefix_mode=1),
    "valle-prenet": _valle(prefix_mode=0, prepend_bos=True, add_prenet=True, norm_first=False),
    "valle-cross": _valle(prefix_mode=1, text_condition="cross_attention", tie_word_embeddings=False),
    "valle-segment": _valle(prefix_mode=2, nar_scale_factor=0.5, prepend_bos=True),
    "valle-prompt": _valle(prefix_mode=4),
    "valle-factorized": _valle_aligned(code_embedding_size=8, tie_word_embeddings=False),
    "valle-monotonic": _valle_aligned(alignment_context=1),
    "valle-monotonic-cross": _valle_aligned(text_condition="cross_attention", prepend_bos=True),
    "musicgen": _musicgen(),
    "musicgen-stereo": _musicgen(**_STEREO, guidance_scale=1.0),
    "musicgen-melody": _musicgen(**_MELODY),
    "audiogen": _musicgen("audiogen"),
}

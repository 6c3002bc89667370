"""What `lm_speed.py` compares: implementations of a codec language model with one set of random weights.

Each gives a `Work`: it generates the same number of frames greedily and says when a step is done.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from measuring import Tick
from peers import stood_in
from torch import Tensor, nn
from transformers import (
    EncodecConfig,
    LogitsProcessorList,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    StoppingCriteriaList,
    T5Config,
)

from codec_lm_hf.configuration.musicgen import MusicGenLMConfig
from codec_lm_hf.configuration.valle import ValleConfig
from codec_lm_hf.conversion_scripts.engine import rename
from codec_lm_hf.conversion_scripts.valle import rules as valle_rules
from codec_lm_hf.modeling.lm_base import CodecLMPreTrainedModel
from codec_lm_hf.modeling.musicgen import MusicGenLMForConditionalGeneration
from codec_lm_hf.modeling.valle import ValleForConditionalGeneration

OURS, OURS_FLOAT16 = "ours", "ours, float16 weights"
SYMBOLS = 12  # of a text for MusicGen, "an upbeat funk track with slap bass" and the like

Work = Callable[[Tick], Tensor]


@dataclass
class Case:
    """A model, and its implementations.

    Attributes:
        frame_rate: Hz.
        frames: that each work generates.
        codebooks: per frame.
        step_weights: weights that a step has to read.
        first_steps: steps until the first frame is complete; `None`: it is so at the end only.
        works: by name; `OURS` is the one that others are compared with.
        models: by the name of their work.
        sampled: works that take every n-th step only, and n.
        left_out: why a work is missing, by its name.
    """

    frame_rate: float
    frames: int
    codebooks: int
    step_weights: int
    first_steps: int | None
    works: dict[str, Work] = field(default_factory=dict)
    models: dict[str, nn.Module] = field(default_factory=dict)
    sampled: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def variants(model: CodecLMPreTrainedModel, only: tuple[str, ...] | None) -> dict[str, CodecLMPreTrainedModel]:
    """Our model as it is, its weights in the half precision that holds them exactly, and in fewer bits."""
    made = {
        OURS: lambda: model,
        OURS_FLOAT16: lambda: copy.deepcopy(model).to_float16(),
        "ours, bfloat16": lambda: copy.deepcopy(model).to(torch.bfloat16),
        "ours, int8": lambda: copy.deepcopy(model).to_int8(),
        "ours, int8 and bfloat16": lambda: copy.deepcopy(model).to(torch.bfloat16).to_int8(),
    }
    return {name: make() for name, make in made.items() if only is None or name in only}


def _as_if_published(model: nn.Module) -> None:
    """Weights as those of a checkpoint in half precision, of which `to_float16` keeps every bit."""
    model.half().float()


# --- MusicGen ------------------------------------------------------------------------------------------------------


def _native_musicgen(config: MusicGenLMConfig, quick: bool) -> MusicgenForConditionalGeneration:
    """transformers' model with random weights; its codec is as small as can be, for it is not used."""
    text = T5Config(vocab_size=64, d_model=config.text_hidden_size, num_heads=12, num_layers=1 if quick else 12)
    codec = EncodecConfig(num_filters=4, hidden_size=8, codebook_dim=8, codebook_size=config.codebook_size)
    decoder = MusicgenDecoderConfig(
        vocab_size=config.codebook_size,
        num_codebooks=config.num_codebooks,
        hidden_size=config.hidden_size,
        ffn_dim=config.hidden_size * config.intermediate_ratio,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        pad_token_id=config.special_id,
        bos_token_id=config.special_id,
    )
    model = MusicgenForConditionalGeneration(MusicgenConfig(text_encoder=text, audio_encoder=codec, decoder=decoder))
    settings = model.generation_config
    settings.decoder_start_token_id = settings.pad_token_id = settings.bos_token_id = config.special_id
    model.audio_encoder.decode = _give_codes
    return model.eval()


class _Codes:
    def __init__(self, audio_values: Tensor) -> None:
        self.audio_values = audio_values


def _give_codes(audio_codes: Tensor, audio_scales: Any = None) -> _Codes:
    """In place of decoding, which is not the language model's."""
    return _Codes(audio_codes[0])


def musicgen(seconds: float, batch: int, quick: bool, only: tuple[str, ...] | None = None) -> Case:
    """MusicGen of the small size with guidance; transformers' own has the weights of ours."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "codebook_size": 64}
    config = MusicGenLMConfig(**(sizes if quick else {}))
    torch.manual_seed(0)
    native = _native_musicgen(config, quick)
    _as_if_published(native.decoder)
    with tempfile.TemporaryDirectory() as folder:
        native.save_pretrained(folder)
        model = MusicGenLMForConditionalGeneration.from_pretrained(folder)
    model.text_encoder = native.text_encoder
    ids, frames = torch.randint(1, 64, (batch, SYMBOLS)), round(seconds * config.frame_rate)
    # Keys and values of the text are made once.
    read = sum(part.numel() for part in (*model.transformer.parameters(), *model.heads.parameters()))
    read -= config.num_hidden_layers * 2 * config.hidden_size**2
    case = Case(config.frame_rate, frames, config.num_codebooks, read, max(config.delays) + 1)

    def work_of(model: MusicGenLMForConditionalGeneration) -> Work:
        def work(tick: Tick) -> Tensor:
            return model.generate(
                input_ids=ids,
                do_sample=False,
                guidance_scale=config.guidance_scale,
                max_new_tokens=frames,
                progress=lambda done, total: tick(),
            )

        return work

    def native_work(tick: Tick) -> Tensor:
        def ticking(ids: Tensor, scores: Tensor) -> Tensor:
            tick()
            return scores

        return native.generate(
            input_ids=ids,
            do_sample=False,
            guidance_scale=config.guidance_scale,
            # Its count has the steps of the delay in it, and the one that it starts from.
            max_new_tokens=frames + max(config.delays),
            logits_processor=LogitsProcessorList([ticking]),
        )

    case.models = variants(model, only)
    case.works = {name: work_of(variant) for name, variant in case.models.items()}
    if only is None or "transformers" in only:
        case.works["transformers"], case.models["transformers"] = native_work, native.decoder
    return case


# --- VALL-E --------------------------------------------------------------------------------------------------------


def _never_end(model: ValleForConditionalGeneration) -> None:
    """Weights under which the end is never the most likely code, so that every implementation runs to the limit."""
    model.ar.transformer.norm.bias.data[0] = 100
    head = model.ar.heads[0].weight.data
    head[:, 0] = 0
    head[model.config.end_id] = 0
    head[model.config.end_id, 0] = -1


def _uncached(model: ValleForConditionalGeneration, given: dict, said: list[Tensor], every: int) -> Work:
    """All steps again for each step, as the original does, on the codes that ours has said.

    Only each `every`-th step is taken, and must say the same.
    """

    def work(tick: Tick) -> Tensor:
        agreed = []
        with torch.no_grad():
            text = model._text(given["input_ids"], None)
            prompt = given["prompt_codes"][:, 0]
            while True:
                # Ours goes first, so its code of this step is known.
                if said[-1] is None:
                    return torch.stack(agreed)
                if (len(said) - 1) % every == 0:
                    codes = torch.cat([prompt, *(code[:, None] for code in said[:-1])], dim=1)
                    valid = torch.ones_like(codes, dtype=torch.bool)
                    places = torch.arange(codes.shape[1])[None]
                    hidden = model.ar(text, model.ar.embed_codes(codes, places), valid)
                    agreed.append(model.ar.heads[0](hidden[:, -1]).argmax(-1) == said[-1])
                tick()

    return work


def _vallex(model: ValleForConditionalGeneration, given: dict, limit_text: int) -> tuple[Work, nn.Module]:
    """PyPI's `vall-e-x` with the weights of our model.

    Raises:
        ImportError: it is not installed.
    """
    config = model.config
    with stood_in("lhotse", "matplotlib", "torchaudio", "encodec", "phonemizer", "pypinyin", "librosa"):
        module = importlib.import_module("vallex.models.vallex")
    theirs = module.VALLE(
        config.hidden_size,
        config.num_attention_heads,
        config.num_hidden_layers,
        norm_first=True,
        prefix_mode=1,
        prepend_bos=False,
        num_quantizers=config.num_codebooks,
    ).eval()
    # Languages are embedded besides; zeros add nothing.
    languages = {key: torch.zeros_like(value) for key, value in theirs.state_dict().items() if "_language_" in key}
    names = [key for key in theirs.state_dict() if key not in languages]
    found = {key: next(iter(rename({key: torch.empty(0)}, valle_rules(config)))) for key in names}
    state = model.state_dict()
    theirs.load_state_dict({key: state[ours] for key, ours in found.items()} | languages)

    def work(tick: Tick) -> Tensor:
        # Its loop says nothing from step to step.
        hook = theirs.ar_predict_layer.register_forward_hook(lambda *_: tick())
        try:
            with torch.no_grad(), contextlib.redirect_stdout(None):
                codes = theirs.inference(
                    given["input_ids"],
                    torch.tensor([limit_text]),
                    given["prompt_codes"].transpose(1, 2),
                    enroll_x_lens=0,
                    top_k=1,
                    prompt_language="en",
                    text_language="en",
                )
        finally:
            hook.remove()
        return codes.transpose(1, 2)

    return work, theirs


def valle(seconds: float, batch: int, quick: bool, every: int, only: tuple[str, ...] | None = None) -> Case:
    """VALL-E of the paper's size, with a prompt of three seconds."""
    frame_rate = 75
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    # The text table of `vall-e-x` has so many entries.
    config = ValleConfig(vocab_size=2048, prefix_mode=1, **(sizes if quick else {}))
    torch.manual_seed(0)
    model = ValleForConditionalGeneration(config).eval()
    _never_end(model)
    _as_if_published(model)
    # The original breaks off by the length of the text; so long a text is as long as the audio that is asked for.
    symbols = max(1, math.ceil(seconds * frame_rate / config.max_frames_per_symbol))
    frames = symbols * config.max_frames_per_symbol + 1
    given = {
        "input_ids": torch.randint(1, 512, (batch, symbols)),
        "prompt_codes": torch.randint(config.codebook_size, (batch, config.num_codebooks, 3 * frame_rate)),
    }
    read = sum(part.numel() for part in (*model.ar.transformer.parameters(), *model.ar.heads.parameters()))
    case = Case(frame_rate, frames, config.num_codebooks, read, None)
    said: list[Tensor | None] = []

    def work_of(model: ValleForConditionalGeneration, record: bool) -> Work:
        def work(tick: Tick) -> Tensor:
            def criterion(ids: Tensor, scores: Tensor) -> Tensor:
                if record:
                    said.append(ids[:, -1].clone())
                tick()
                return torch.zeros(len(ids), dtype=torch.bool)

            codes = model.generate(**given, do_sample=False, stopping_criteria=StoppingCriteriaList([criterion]))
            if record:
                said.append(None)
            return codes

        return work

    case.models = variants(model, only)
    case.works = {name: work_of(variant, name == OURS) for name, variant in case.models.items()}
    if only is None or "uncached" in only:
        case.works["uncached"], case.models["uncached"] = _uncached(model, given, said, every), model
        case.sampled["uncached"] = every
    if batch == 1 and (only is None or "vall-e-x" in only):
        try:
            case.works["vall-e-x"], case.models["vall-e-x"] = _vallex(model, given, symbols)
        except ImportError as error:
            case.left_out["vall-e-x"] = f"not installed here: {error}"
    elif batch != 1:
        case.left_out["vall-e-x"] = "it takes one row only"
    return case

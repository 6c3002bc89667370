"""MusicGen's `state_dict.bin`, and AudioGen's, which has the same layout; or the folder that also has their codec."""

from __future__ import annotations

from pathlib import Path

from ..configuration.musicgen import MusicGenLMConfig
from ..modeling.musicgen import MusicGenLMForConditionalGeneration
from ..processing.musicgen import MusicGenLMProcessor
from ..registry import family
from . import audiocraft
from .engine import ConversionError, Converter, State, converter_of, load_original, read_checkpoint, resolve_config

_LM_FILE, _CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"

_LAYER = r"transformer\.layers\.(\d+)"
_CONDITIONERS = r"condition_provider\.conditioners"

RULES = [
    (r"emb\.(\d+)\.weight", r"embeddings.\1.weight"),
    (_LAYER + r"\.self_attn\.in_proj_weight", r"transformer.layers.\1.attention.in_proj.weight"),
    (_LAYER + r"\.self_attn\.out_proj\.weight", r"transformer.layers.\1.attention.out_proj.weight"),
    (_LAYER + r"\.cross_attention\.in_proj_weight", r"transformer.layers.\1.cross_attention.in_proj.weight"),
    (_LAYER + r"\.cross_attention\.out_proj\.weight", r"transformer.layers.\1.cross_attention.out_proj.weight"),
    (_LAYER + r"\.linear1\.weight", r"transformer.layers.\1.feedforward_in.weight"),
    (_LAYER + r"\.linear2\.weight", r"transformer.layers.\1.feedforward_out.weight"),
    (_LAYER + r"\.norm1\.(weight|bias)", r"transformer.layers.\1.attention_norm.\2"),
    (_LAYER + r"\.norm_cross\.(weight|bias)", r"transformer.layers.\1.cross_attention_norm.\2"),
    (_LAYER + r"\.norm2\.(weight|bias)", r"transformer.layers.\1.feedforward_norm.\2"),
    (r"out_norm\.(weight|bias)", r"transformer.norm.\1"),
    (r"linears\.(\d+)\.weight", r"heads.\1.weight"),
    (_CONDITIONERS + r"\.description\.output_proj\.(weight|bias)", r"text_projection.\1"),
    (_CONDITIONERS + r"\.self_wav\.output_proj\.(weight|bias)", r"chroma_projection.\1"),
    (_CONDITIONERS + r"\.self_wav\.chroma\.spec\.window", None),
]

# What every published model has, and this family takes for granted.
_FIXED = {
    "activation": "gelu",
    "norm_first": True,
    "bias_ff": False,
    "bias_attn": False,
    "bias_proj": False,
    "past_context": None,
    "causal": True,
    "layer_scale": None,
    "positional_embedding": "sin",
    "xpos": False,
    "norm": "layer_norm",
    "qk_layer_norm": False,
    "qk_layer_norm_cross": False,
    "kv_repeat": 1,
}
_T5_WIDTHS = {"t5-small": 512, "t5-base": 768, "t5-large": 1024}


def fields_from_original(original: dict) -> dict:
    """The fields that a configuration of AudioCraft sets.

    Raises:
        ConversionError: a part is missing, or a value that no published model has.
    """
    try:
        lm, pattern = original["transformer_lm"], original["codebooks_pattern"]
        fuser, text = original["fuser"], original["conditioners"]["description"]["t5"]
        for name, value in _FIXED.items():
            if lm.get(name, value) != value:
                raise ConversionError(f"{name}={lm[name]!r} is not supported; every published model has {value!r}.")
        if (
            pattern["modeling"] != "delay"
            or pattern["delay"].get("flatten_first")
            or pattern["delay"].get("empty_initial")
        ):
            raise ConversionError(f"the pattern {pattern['modeling']!r} is not supported; published models delay.")
        prefix = [name for name in fuser.get("prepend", []) if name in ("description", "self_wav")]
        fields = {
            "num_codebooks": lm["n_q"],
            "codebook_size": lm["card"],
            "hidden_size": lm["dim"],
            "num_hidden_layers": lm["num_layers"],
            "num_attention_heads": lm["num_heads"],
            "intermediate_ratio": lm["hidden_scale"],
            "dropout": lm["dropout"],
            "delays": pattern["delay"]["delays"],
            "audio_channels": original["channels"],
            "sampling_rate": original["sample_rate"],
            "text_encoder_name": text["name"],
            "text_hidden_size": _T5_WIDTHS[text["name"]],
            "text_condition": "prefix" if "description" in prefix else "cross_attention",
            "max_duration": original["dataset"]["segment_duration"],
            "condition_dropout": original["classifier_free_guidance"]["training_dropout"],
            "guidance_scale": original["classifier_free_guidance"]["inference_coef"],
        }
        if "codec" in original:
            fields["frame_rate"] = converter_of(family("encodec")).config_from_original(original["codec"]).frame_rate
        if "self_wav" in prefix:
            chroma = original["conditioners"]["self_wav"]["chroma_stem"]
            if not chroma["argmax"] or prefix != ["self_wav", "description"]:
                raise ConversionError(f"a melody must come first, as single pitch classes; got {prefix}, {chroma}.")
            fields |= {"num_chroma": chroma["n_chroma"], "chroma_n_fft": 2 ** chroma["radix2_exp"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"the configuration is none of an AudioCraft language model: {error!r} is missing."
        ) from error
    # The files do not say it: windows advance by this share of their length.
    return fields | {"extend_stride": 0.6 * fields["max_duration"]}


def config_from_original(original: dict) -> MusicGenLMConfig:
    return MusicGenLMConfig(**fields_from_original(original))


def files(path: Path) -> list[Path]:
    """The file of a language model, and that of its codec where it is given."""
    if not path.is_dir():
        return [path]
    return [path / _LM_FILE, *filter(Path.is_file, [path / _CODEC_FILE])]


def read(path: Path) -> State:
    lm = files(path)[0]
    return audiocraft.state_of(read_checkpoint(lm), lm)


def read_config(path: Path) -> dict:
    """The configuration of a language model, and under `codec` that of its codec."""
    lm, *codecs = files(path)
    found = audiocraft.config_of(read_checkpoint(lm), lm)
    for codec in codecs:
        file = read_checkpoint(codec)
        if "pretrained" not in file:
            found["codec"] = audiocraft.config_of(file, codec)
    return found


def make_processor(path: Path, config: MusicGenLMConfig) -> MusicGenLMProcessor:
    """The processor of a language model, with its codec where that is given."""
    processor, converter = MusicGenLMProcessor.from_config(config), converter_of(family("encodec"))
    for codec in files(path)[1:]:
        name = read_checkpoint(codec).get("pretrained")
        if name is None:
            codec_config, _ = resolve_config(converter, codec, None, None)
            processor.codec = load_original(converter, codec, codec_config)
        elif "/" in name:
            processor.codec_name = name
        else:
            raise ConversionError(f"{codec} only names its codec, {name!r}, which is no repository: give the codec.")
    return processor


# What AudioGen's has too.
SHARED = {"rules": RULES, "read": read, "files": files, "read_config": read_config, "processor": make_processor}
CONVERTER = Converter(
    MusicGenLMConfig, MusicGenLMForConditionalGeneration, config_from_original=config_from_original, **SHARED
)

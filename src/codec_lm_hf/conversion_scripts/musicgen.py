"""MusicGen's `state_dict.bin`, and AudioGen's, which has the same layout; or the folder that also has their codec."""

from __future__ import annotations

import math
from pathlib import Path

from transformers import (
    EncodecFeatureExtractor,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)

from ..configuration.musicgen import MusicGenLMConfig
from ..modeling.musicgen import MusicGenLMForConditionalGeneration
from ..processing.musicgen import MusicGenLMProcessor
from ..registry import family, family_of
from . import audiocraft
from .engine import (
    ConversionError,
    Converter,
    State,
    check_fixed,
    converter_of,
    load_original,
    read_checkpoint,
    rename,
    resolve_config,
)

_LM_FILE, _CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"

_LAYER = r"transformer\.layers\.(\d+)"
# Of torch's own attention, where the configuration asks for neither `memory_efficient` nor `custom`, under `mha`.
_PROJECTION = r"\.(?:mha\.)?(in_proj|out_proj)[._]weight"
_CONDITIONERS = r"condition_provider\.conditioners"

RULES = [
    (r"emb\.(\d+)\.weight", r"embeddings.\1.weight"),
    (_LAYER + r"\.self_attn" + _PROJECTION, r"transformer.layers.\1.attention.\2.weight"),
    (_LAYER + r"\.cross_attention" + _PROJECTION, r"transformer.layers.\1.cross_attention.\2.weight"),
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

_NATIVE_LAYER = r"decoder.model.decoder.layers.\1"
# Our names, queries, keys and values apart, to those of transformers' own model.
NATIVE_RULES = [
    (r"embeddings\.(\d+\..*)", r"decoder.model.decoder.embed_tokens.\1"),
    (_LAYER + r"\.attention\.(.*)", _NATIVE_LAYER + r".self_attn.\2"),
    (_LAYER + r"\.cross_attention\.(.*)", _NATIVE_LAYER + r".encoder_attn.\2"),
    (_LAYER + r"\.feedforward_in\.(.*)", _NATIVE_LAYER + r".fc1.\2"),
    (_LAYER + r"\.feedforward_out\.(.*)", _NATIVE_LAYER + r".fc2.\2"),
    (_LAYER + r"\.attention_norm\.(.*)", _NATIVE_LAYER + r".self_attn_layer_norm.\2"),
    (_LAYER + r"\.cross_attention_norm\.(.*)", _NATIVE_LAYER + r".encoder_attn_layer_norm.\2"),
    (_LAYER + r"\.feedforward_norm\.(.*)", _NATIVE_LAYER + r".final_layer_norm.\2"),
    (r"transformer\.norm\.(.*)", r"decoder.model.decoder.layer_norm.\1"),
    (r"heads\.(\d+\..*)", r"decoder.lm_heads.\1"),
    (r"text_projection\.(.*)", r"enc_to_dec_proj.\1"),
    (r"chroma_projection\.(.*)", r"audio_enc_to_dec_proj.\1"),
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
    "positional_scale": 1,
    "max_period": 10_000,
    "xpos": False,
    "norm": "layer_norm",
    "qk_layer_norm": False,
    "qk_layer_norm_cross": False,
    "kv_repeat": 1,
}
# What the original makes of a configuration that is silent, where that is something else.
_DEFAULTS = {
    "activation": "relu",
    "norm_first": False,
    "bias_ff": True,
    "bias_attn": True,
    "bias_proj": True,
    "causal": False,
}
_FIXED_FUSER = {"sum": [], "input_interpolate": [], "cross_attention_pos_emb": False}
_FIXED_T5 = {"finetune": False, "normalize_text": False}
_FIXED_CHROMA = {"argmax": True, "winlen": None, "winhop": None, "nfft": None, "norm": math.inf}
# Conditions, what makes each, and where it goes.
_CONDITIONS = [
    {"description": ("t5", "cross")},
    {"description": ("t5", "prepend")},
    {"description": ("t5", "prepend"), "self_wav": ("chroma_stem", "prepend")},
]
_T5_WIDTHS = {
    "t5-small": 512,
    "t5-base": 768,
    **dict.fromkeys(("t5-large", "t5-3b", "t5-11b"), 1024),
    "google/flan-t5-small": 512,
    "google/flan-t5-base": 768,
    "google/flan-t5-large": 1024,
}


def fields_from_original(original: dict) -> dict:
    """The fields that a configuration of AudioCraft sets.

    Raises:
        ConversionError: a part is missing, or a value that no published model has.
    """
    names = ("transformer_lm", "codebooks_pattern", "fuser", "conditioners", "classifier_free_guidance")
    try:
        lm, pattern, fuser, conditioners, guidance = (audiocraft.resolve(original, original[name]) for name in names)
        sampling_rate = audiocraft.resolve(original, original["sample_rate"])
        duration = audiocraft.resolve(original, original["dataset"]["segment_duration"])
        check_fixed(_DEFAULTS | lm, _FIXED)
        fields = {
            "num_codebooks": lm["n_q"],
            "codebook_size": lm["card"],
            "hidden_size": lm["dim"],
            "num_hidden_layers": lm["num_layers"],
            "num_attention_heads": lm["num_heads"],
            "intermediate_ratio": lm["hidden_scale"],
            "dropout": lm["dropout"],
            "delays": _delays(pattern, lm),
            "sampling_rate": sampling_rate,
            "max_duration": duration,
            # The files do not say it: windows advance by this share of their length.
            "extend_stride": 0.6 * duration,
            "condition_dropout": guidance["training_dropout"],
            "guidance_scale": guidance["inference_coef"],
        }
        if fields["intermediate_ratio"] % 1:
            raise ConversionError(f"hidden_scale={lm['hidden_scale']} is not supported; give a whole number.")
        return fields | _fields_of_codec(original) | _fields_of_conditions(fuser, conditioners or {}, sampling_rate)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConversionError(
            f"the configuration is none of an AudioCraft language model: {error!r} is missing."
        ) from error


def _delays(pattern: dict, lm: dict) -> list[int]:
    kind = pattern["modeling"]
    if kind is None:
        kind, pattern = lm["q_modeling"], {}
    options = pattern.get(kind) or {}
    check_fixed(options, {"flatten_first": 0, "empty_initial": 0})
    if kind == "parallel":
        return [0] * lm["n_q"]
    if kind != "delay":
        raise ConversionError(
            f"the pattern {kind!r} is not supported; published models delay, others may be parallel."
        )
    delays = options.get("delays")
    return list(range(lm["n_q"])) if delays is None else delays


def _fields_of_codec(original: dict) -> dict:
    sides = original.get("interleave_stereo_codebooks") or {}
    fields = {"audio_channels": audiocraft.resolve(original, original["channels"])}
    if "codec" in original:
        codec = converter_of(family("encodec")).config_from_original(original["codec"])
        fields = {"audio_channels": codec.audio_channels, "frame_rate": codec.sampling_rate // codec.hop_length}
    if sides.get("use"):
        check_fixed(sides, {"per_timestep": False})
        fields["audio_channels"] = 2
    return fields


def _fields_of_conditions(fuser: dict, conditioners: dict, sampling_rate: int) -> dict:
    places = {name: place for place in ("cross", "prepend") for name in fuser.get(place) or ()}
    made = {name: (part["model"], places.get(name)) for name, part in conditioners.items() if name != "args"}
    if made not in _CONDITIONS:
        raise ConversionError(f"the conditions {made} are not supported; published models have {_CONDITIONS}.")
    check_fixed(fuser, _FIXED_FUSER)
    text = conditioners["description"]["t5"]
    check_fixed(text, _FIXED_T5)
    fields = {
        "text_encoder_name": text["name"],
        "text_hidden_size": _T5_WIDTHS[text["name"]],
        "text_condition": "prefix" if places["description"] == "prepend" else "cross_attention",
    }
    if "self_wav" in made:
        # Whatever their order in the configuration, the original puts the melody before the text.
        chroma = conditioners["self_wav"]["chroma_stem"]
        check_fixed({"argmax": False} | chroma, _FIXED_CHROMA | {"sample_rate": sampling_rate})
        fields |= {"num_chroma": chroma["n_chroma"], "chroma_n_fft": 2 ** chroma["radix2_exp"]}
    return fields


def config_from_original(original: dict) -> MusicGenLMConfig:
    """AudioCraft's configuration, the `xp.cfg` of the file, to ours; errors as of `fields_from_original`."""
    return MusicGenLMConfig(**fields_from_original(original))


def files(path: Path) -> list[Path]:
    """The file of a language model, and that of its codec where it is given."""
    if not path.is_dir():
        return [path]
    return [path / _LM_FILE, *filter(Path.is_file, [path / _CODEC_FILE])]


def read(path: Path) -> State:
    """The tensors of the language model, of the file or the folder at `path`."""
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


def to_native(
    model: MusicGenLMForConditionalGeneration, processor: MusicGenLMProcessor
) -> tuple[PreTrainedModel, list]:
    """transformers' own model with the same weights, text encoder and codec within; its feature extractor, tokenizer.

    It masks the padding of texts, as ours does with `mask_text_padding`, but where they stand before the codes.

    Raises:
        ConversionError: it has no such configuration.
    """
    config, text_encoder = model.config, model.text_encoder
    _check_native(config)
    codec_row = family_of(processor.codec.config.model_type)
    make_codec = None if codec_row is None or codec_row.converter is None else converter_of(codec_row).native
    if make_codec is None:
        raise ConversionError(f"{type(processor.codec).__name__} cannot be written as a codec of transformers' own.")
    codec, _ = make_codec(processor.codec, None)
    native = _native_model(config, {"text_encoder": text_encoder.config, "audio_encoder": codec.config})
    state = rename(_unpacked(model.state_dict()), NATIVE_RULES)
    for name, part in {"text_encoder": text_encoder, "audio_encoder": codec}.items():
        state |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    native.load_state_dict(state)
    chosen = model.generation_config.to_diff_dict()
    frames = chosen.pop("max_new_tokens", None) or round(config.max_duration * config.frame_rate)
    # There the steps of the delays count as new ones.
    steps = frames + config.num_codebooks // config.audio_channels - 1
    start = dict.fromkeys(("pad_token_id", "bos_token_id", "decoder_start_token_id"), config.special_id)
    native.generation_config.update(**{**chosen, **start, "max_length": steps})
    if config.num_chroma:
        features = _melody_features(config)
    else:
        # A prompt ends where the music goes on.
        features = EncodecFeatureExtractor(config.audio_channels, config.sampling_rate, padding_side="left")
    return native.eval(), [features, processor.tokenizer]


def _check_native(config: MusicGenLMConfig) -> None:
    delays = [index // config.audio_channels for index in range(config.num_codebooks)]
    if list(config.delays) != delays:
        raise ConversionError(f"transformers has no MusicGen with the delays {list(config.delays)}; its are {delays}.")
    if config.text_condition == "prefix" and not config.num_chroma:
        raise ConversionError("transformers has no MusicGen with texts before the codes and no melodies.")
    if config.hidden_size in (config.text_hidden_size, config.num_chroma):
        raise ConversionError(
            f"transformers' MusicGen projects no condition as wide as it is itself, hidden_size={config.hidden_size}."
        )


def _native_model(config: MusicGenLMConfig, parts: dict[str, PreTrainedConfig]) -> PreTrainedModel:
    fields = {
        "vocab_size": config.codebook_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "ffn_dim": config.hidden_size * config.intermediate_ratio,
        "num_codebooks": config.num_codebooks,
        "audio_channels": config.audio_channels,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "activation_dropout": config.dropout,
        "initializer_factor": config.initializer_range,
        "pad_token_id": config.special_id,
        "bos_token_id": config.special_id,
    }
    if not config.num_chroma:
        native_config = MusicgenConfig(decoder=MusicgenDecoderConfig(**fields), **parts)
        return MusicgenForConditionalGeneration(native_config)
    chroma = {"num_chroma": config.num_chroma, "chroma_length": config.chroma_frames}
    native_config = MusicgenMelodyConfig(decoder=MusicgenMelodyDecoderConfig(**fields), **parts, **chroma)
    return MusicgenMelodyForConditionalGeneration(native_config)


def _unpacked(state: State) -> State:
    """Queries, keys and values of a packed projection apart."""
    apart = {}
    for key, value in state.items():
        if key.endswith(".in_proj.weight"):
            for name, part in zip("qkv", value.chunk(3), strict=True):
                apart[key.replace(".in_proj.", f".{name}_proj.")] = part
        else:
            apart[key] = value
    return apart


def _melody_features(config: MusicGenLMConfig) -> SequenceFeatureExtractor:
    """What is saved like transformers' own extractor of melodies, which only torchaudio can make."""
    stand_in = type("MusicgenMelodyFeatureExtractor", (SequenceFeatureExtractor,), {})
    return stand_in(
        feature_size=config.num_chroma,
        sampling_rate=config.sampling_rate,
        padding_value=0.0,
        hop_length=config.chroma_n_fft // 4,
        n_fft=config.chroma_n_fft,
        num_chroma=config.num_chroma,
        chunk_length=math.ceil(config.max_duration),
        return_attention_mask=False,
        stem_indices=[3, 2],
        processor_class="MusicgenMelodyProcessor",
    )


# What AudioGen's has too.
SHARED = {
    "rules": RULES,
    "read": read,
    "files": files,
    "read_config": read_config,
    "processor": make_processor,
    "native": to_native,
}
CONVERTER = Converter(
    MusicGenLMConfig, MusicGenLMForConditionalGeneration, config_from_original=config_from_original, **SHARED
)

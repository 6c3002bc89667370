"""EnCodec's `.th` files, a bare state dict without a configuration; and AudioCraft's, which hold theirs."""

from __future__ import annotations

import math
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel

from ..configuration.encodec import EncodecCodecConfig
from ..modeling.encodec import EncodecCodecModel
from ..modeling.layers.conv import NORM_TYPES
from ..processing.feature_extraction import CodecFeatureExtractor
from . import audiocraft
from .engine import ConversionError, Converter, State, read_checkpoint, translated
from .seanet import SEANET_RULES

# The original's name of a field -> ours.
_FIELDS = {
    "channels": "audio_channels",
    "dimension": "hidden_size",
    "n_filters": "num_filters",
    "n_residual_layers": "num_residual_layers",
    "ratios": "upsampling_ratios",
    "norm": "norm_type",
    "kernel_size": "kernel_size",
    "last_kernel_size": "last_kernel_size",
    "residual_kernel_size": "residual_kernel_size",
    "dilation_base": "dilation_growth_rate",
    "causal": "use_causal_conv",
    "pad_mode": "pad_mode",
    "compress": "compress",
    "lstm": "num_lstm_layers",
    "trim_right_ratio": "trim_right_ratio",
    "n_q": "num_quantizers",
    "bins": "codebook_size",
    "decay": "codebook_decay",
    "kmeans_iters": "kmeans_iterations",
    "target_bandwidths": "target_bandwidths",
    "sample_rate": "sampling_rate",
    "normalize": "normalize",
    "segment": "chunk_length_s",
    "overlap": "overlap",
    "name": "original_name",
}
# What transformers' own configuration calls as ours does.
_NATIVE_FIELDS = {*_FIELDS.values(), "codebook_dim", "use_conv_shortcut"} - {
    "num_quantizers",
    "original_name",
    "codebook_decay",
    "kmeans_iterations",
}
_FIXED = {
    "activation": "ELU",
    "activation_params": {"alpha": 1.0},
    "norm_params": {},
    "final_activation": None,
    "final_activation_params": None,
    "kmeans_init": True,
}


def config_from_original(original: dict) -> EncodecCodecConfig:
    """The original's constructor arguments, flat or under `seanet`, `quantizer` and `model`, to our configuration.

    Raises:
        ConversionError: an argument that is unknown, or has a value that no published model has.
    """
    if "rvq" in original:
        original = _from_audiocraft(original)
    flat: dict = {}
    for name, value in original.items():
        flat |= value if name in ("seanet", "quantizer", "model") else {name: value}
    if "seanet" in original:
        flat.setdefault("causal", False)  # as the constructor has it, not the published 24 kHz model
    if flat.get("segment") is not None:
        flat.setdefault("overlap", 0.01)
    norm = flat.get("norm", "weight_norm")
    if norm not in NORM_TYPES:
        raise ConversionError(f"norm={norm!r} is not supported; choose a checkpoint with one of {NORM_TYPES}.")
    # It has no effect in the original, which overwrites what it replaces.
    flat.pop("threshold_ema_dead_code", None)
    fields: dict = {"use_conv_shortcut": not flat.pop("true_skip", False)}
    flat.pop("frame_rate", None)
    if "D" in flat:
        # AcademiCodec names the rest in its code: 10 bits a code, no causal convolutions.
        flat |= {"dimension": flat.pop("D"), "causal": False}
    return EncodecCodecConfig(**fields, **translated(flat, _FIELDS, _FIXED, "EnCodec"))


def _from_audiocraft(original: dict) -> dict:
    """The part of AudioCraft's training configuration that makes the codec, under EnCodec's own names."""
    seanet, rvq, sampling_rate = (
        audiocraft.resolve(original, original[name]) for name in ("seanet", "rvq", "sample_rate")
    )
    outer, encoder = seanet.pop("disable_norm_outer_blocks", 0), seanet.pop("encoder", {})
    decoder = {name: value for name, value in seanet.pop("decoder", {}).items() if name != "final_activation_params"}
    apart = [*encoder, *(decoder.keys() & seanet.keys())]
    if original.get("compression_model", "encodec") != "encodec" or outer or apart:
        raise ConversionError(
            "only AudioCraft's EnCodec is supported, with one kind of norm throughout, and an encoder that is the "
            f"decoder's mirror; got disable_norm_outer_blocks={outer}, other values of one of the two for {apart}."
        )
    rvq = {name: rvq[name] for name in ("n_q", "bins")}
    found = {"seanet": seanet | decoder, "quantizer": rvq, "sample_rate": sampling_rate}
    found["normalize"] = audiocraft.resolve(original, original["encodec"].get("renormalize", False))
    # The rate of all codebooks; the configuration does not state it.
    frame_rate = math.ceil(sampling_rate / math.prod(seanet["ratios"]))
    rate = rvq["n_q"] * math.ceil(math.log2(rvq["bins"])) * frame_rate / 1000
    return found | {"target_bandwidths": (rate,)}


def read(path: Path) -> State:
    """The state dict of a bare file or of AudioCraft's."""
    file = read_checkpoint(path)
    return audiocraft.state_of(file, path) if audiocraft.is_container(file) else file


def read_config(path: Path) -> dict | None:
    """AudioCraft's configuration; `None` for a bare file."""
    file = read_checkpoint(path)
    return audiocraft.config_of(file, path) if "best_state" in file else None


def to_native(model: EncodecCodecModel, features: CodecFeatureExtractor | None = None) -> tuple[EncodecModel, list]:
    """transformers' own model with the same weights, and its feature extractor.

    Raises:
        ConversionError: it has no such configuration.
    """
    config = model.config
    if config.fused:
        raise ConversionError("transformers has no EnCodec of fused weights: export what was saved before `fuse()`.")
    try:
        native = EncodecModel(EncodecConfig(**{name: getattr(config, name) for name in _NATIVE_FIELDS}))
    except (StrictDataclassError, ValueError) as error:
        raise ConversionError(f"transformers has no EnCodec of this configuration: {error}") from error
    count = native.config.num_quantizers
    if count != config.num_quantizers:
        raise ConversionError(
            f"transformers reads {count} codebooks off the bandwidths {list(config.target_bandwidths)}; this model "
            f"has {config.num_quantizers}: set its target_bandwidths to end with the rate of all of them, "
            f"{config.bandwidth_of(config.num_quantizers):g} kbps."
        )
    native.load_state_dict(model.state_dict())
    segments = {"chunk_length_s": config.chunk_length_s, "overlap": config.overlap}
    return native.eval(), [EncodecFeatureExtractor(config.audio_channels, config.sampling_rate, **segments)]


CONVERTER = Converter(
    EncodecCodecConfig,
    EncodecCodecModel,
    SEANET_RULES,
    config_from_original,
    read=read,
    read_config=read_config,
    native=to_native,
)

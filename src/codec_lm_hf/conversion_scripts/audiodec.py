"""AudioDec's `checkpoint-<steps>steps.pkl`: of an autoencoder, or of a vocoder, which names its autoencoder.

Beside each lies the `config.yml` of its training. A vocoder's says at `analyzer` where its autoencoder is, seen from
the folder that holds `exp`; the two files make one model, and the autoencoder's own decoder is left out.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..configuration.audiodec import AudioDecCodecConfig
from ..modeling.audiodec import AudioDecCodecModel
from .engine import ConversionError, Converter, State, read_checkpoint, read_config_file, translated


def _conv(theirs: str, ours: str) -> list[tuple[str, str | None]]:
    """Rules for one convolution; `theirs` has as many groups as `ours` refers to."""
    last = rf"\{ours.count(chr(92)) + 1}"
    return [
        (theirs + r"\.weight_g", ours + r".conv.parametrizations.weight.original0"),
        (theirs + r"\.weight_v", ours + r".conv.parametrizations.weight.original1"),
        (theirs + r"\.(weight|bias)", f"{ours}.conv.{last}"),
    ]


_ENCODER_STAGE = r"encoder\.conv_blocks\.(\d+)"
# With outer activations, a stage is a sequence of the activation and what it is without.
_DECODER_STAGE = r"decoder\.conv_blocks\.(\d+)(?:\.1)?"
_GENERATOR = "decoder.generator"

RULES = [
    # What a stream carries, which is no part of a model here.
    (r".+\.pad_buffer", None),
    *_conv(r"encoder\.conv\.conv", "encoder.first"),
    *_conv(_ENCODER_STAGE + r"\.res_units\.(\d+)\.conv1\.conv", r"encoder.stages.\1.units.\2.block.1"),
    *_conv(_ENCODER_STAGE + r"\.res_units\.(\d+)\.conv2", r"encoder.stages.\1.units.\2.block.3"),
    *_conv(_ENCODER_STAGE + r"\.conv\.conv", r"encoder.stages.\1.down"),
    *_conv(r"projector\.project\.conv", "encoder.last"),
    (r"quantizer\.codebook\.layers\.(\d+)\.(\w+)", r"quantizer.layers.\1.codebook.\2"),
    *_conv(r"decoder\.conv1\.conv", "decoder.first"),
    *_conv(_DECODER_STAGE + r"\.res_units\.(\d+)\.conv1\.conv", r"decoder.stages.\1.units.\2.block.1"),
    *_conv(_DECODER_STAGE + r"\.res_units\.(\d+)\.conv2", r"decoder.stages.\1.units.\2.block.3"),
    *_conv(_DECODER_STAGE + r"\.conv\.deconv", r"decoder.stages.\1.up"),
    *_conv(r"decoder\.conv2\.conv", "decoder.last"),
    (r"(mean|scale)", r"decoder.\1"),
    *_conv(r"input_conv\.conv", f"{_GENERATOR}.first"),
    *_conv(r"upsamples\.(\d+)\.deconv", rf"{_GENERATOR}.stages.\1.up"),
    *(
        rule
        for place, number in (("convs1", 0), ("convs2", 1))
        for rule in (
            *_conv(
                rf"blocks\.(\d+)\.blocks\.(\d+)\.{place}\.(\d+)\.conv",
                rf"{_GENERATOR}.stages.\1.blocks.blocks.\2.steps.\3.convs.{number}",
            ),
            *_conv(
                rf"blocks\.(\d+)\.{place}\.(\d+)\.conv",
                rf"{_GENERATOR}.stages.\1.blocks.block.steps.\2.convs.{number}",
            ),
        )
    ),
    *_conv(r"blocks\.(\d+)\.conv_out", rf"{_GENERATOR}.stages.\1.blocks.join"),
    *_conv(r"output_conv\.conv", f"{_GENERATOR}.last"),
]

_AUTOENCODERS = ("symAudioDec", "symAudioDecUniv")
_VOCODERS = ("HiFiGAN", "UnivNet")

# The original's name of a field -> ours.
_AUTOENCODER_FIELDS = {
    "input_channels": "audio_channels",
    "encode_channels": "encoder_channels",
    "enc_ratios": "encoder_ratios",
    "enc_strides": "encoder_strides",
    "decode_channels": "decoder_channels",
    "dec_ratios": "decoder_ratios",
    "dec_strides": "decoder_strides",
    "bias": "use_strided_bias",
    "code_dim": "hidden_size",
    "codebook_num": "num_quantizers",
    "codebook_size": "codebook_size",
}
_VOCODER_FIELDS = {
    "channels": "vocoder_channels",
    "kernel_size": "vocoder_kernel_size",
    "upsample_scales": "vocoder_ratios",
    "resblock_kernel_sizes": "vocoder_residual_kernel_sizes",
    "resblock_dilations": "vocoder_residual_dilations",
    "groups": "vocoder_groups",
    "use_additional_convs": "vocoder_paired_convolutions",
}
# What the original takes where a vocoder's configuration does not say, and is not our default.
_VOCODER_DEFAULTS = {
    "groups": 1,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilations": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
}
# Fields that have one value in every published model.
_AUTOENCODER_FIXED = {"projector": "conv1d", "quantier": "residual_vq"}
_VOCODER_FIXED = {
    "out_channels": 1,
    "bias": True,
    "nonlinear_activation": "LeakyReLU",
    "nonlinear_activation_params": {"negative_slope": 0.1},
}
# And those of which each value is one of ours.
_CODECS = {"audiodec": False, "activate_audiodec": True}
_MODES = {"causal": True, "noncausal": False}
_NORMS = {True: "weight_norm", False: "none"}


def _refuse(name: str, value, supported) -> ConversionError:
    return ConversionError(f"{name}={value!r} is not supported; expected {supported!r}.")


def _autoencoder_fields(params: dict) -> dict:
    params = dict(params)
    activation = _activation(params.pop("nonlinear_activation", "ELU"), params.pop("nonlinear_activation_params", {}))
    choices = {
        "use_outer_activations": _chosen(params, "codec", "audiodec", _CODECS),
        "use_causal_conv": _chosen(params, "mode", "causal", _MODES),
        "norm_type": _chosen(params, "use_weight_norm", False, _NORMS),
    }
    channels = params.pop("output_channels", 1)
    if channels != params.get("input_channels", 1):
        raise _refuse("output_channels", channels, params.get("input_channels", 1))
    return {**translated(params, _AUTOENCODER_FIELDS, _AUTOENCODER_FIXED, "AudioDec"), **choices, **activation}


def _chosen(params: dict, name: str, default, choices: dict):
    """What the value of a field is with us; the field is taken out of `params`."""
    value = params.pop(name, default)
    if value not in choices:
        raise _refuse(name, value, sorted(choices))
    return choices[value]


def _activation(name: str, params: dict) -> dict:
    """A class of `torch.nn` and its arguments as our fields."""
    if name == "ELU" and params in ({}, {"alpha": 1.0}):
        return {"activation": "elu"}
    if name == "LeakyReLU" and set(params) <= {"negative_slope"}:
        return {"activation": "leaky_relu", "negative_slope": float(params.get("negative_slope", 0.01))}
    if name == "ReLU" and not params:
        return {"activation": "leaky_relu", "negative_slope": 0.0}
    raise _refuse("nonlinear_activation", (name, params), ["ELU", "LeakyReLU", "ReLU"])


def _vocoder_fields(params: dict, hidden_size: int) -> dict:
    params = {**_VOCODER_DEFAULTS, **params}
    kernel_sizes = [2 * scale for scale in params.get("upsample_scales", ())]
    if params.pop("upsample_kernel_sizes", None) != kernel_sizes:
        raise ConversionError(f"upsample_kernel_sizes must be twice upsample_scales, {kernel_sizes}.")
    params.pop("stats", None)  # the checkpoint has them, too
    norm_type = _chosen(params, "use_weight_norm", True, _NORMS)
    channels = params.pop("in_channels", None)
    if channels != hidden_size:
        raise ConversionError(f"the vocoder's in_channels ({channels}) must be the autoencoder's code_dim.")
    fields = translated(params, _VOCODER_FIELDS, _VOCODER_FIXED, "AudioDec")
    return {"decoder_type": "vocoder", "vocoder_norm_type": norm_type, **fields}


def config_from_original(original: dict) -> AudioDecCodecConfig:
    """An autoencoder's `config.yml`, or a dict of an autoencoder's and a vocoder's by any names, to our configuration.

    Raises:
        ConversionError: a field that is unknown, or has a value that no published model has; no autoencoder.
    """
    configs = [original] if "model_type" in original else list(original.values())
    by_type = {config.get("model_type"): config for config in configs}
    unknown = sorted(str(kind) for kind in by_type if kind not in _AUTOENCODERS + _VOCODERS)
    if unknown:
        raise ConversionError(f"model_type must be one of {_AUTOENCODERS + _VOCODERS}, got {unknown}.")
    autoencoders = [config for kind, config in by_type.items() if kind in _AUTOENCODERS]
    vocoders = [config for kind, config in by_type.items() if kind in _VOCODERS]
    if len(autoencoders) != 1 or len(vocoders) != len(configs) - 1 or len(configs) > 2:
        raise ConversionError(
            f"expected the configuration of an autoencoder, or of one and a vocoder; got {list(by_type)}."
        )
    rates = {config.get("sampling_rate") for config in configs}
    if len(rates) != 1:
        raise ConversionError(f"autoencoder and vocoder must have one sampling_rate, got {sorted(map(str, rates))}.")
    fields = _autoencoder_fields(autoencoders[0].get("generator_params", {}))
    for vocoder in vocoders:
        fields |= _vocoder_fields(vocoder.get("generator_params", {}), fields.get("hidden_size"))
    return AudioDecCodecConfig(sampling_rate=rates.pop(), **fields)


def _prepare(state: State, config: AudioDecCodecConfig) -> State:
    """Codebooks as `(size, dim)`, and marked as started; no symmetric decoder where a vocoder takes its place.

    A vocoder without statistics gets those that change nothing.
    """
    prepared: State = {}
    if config.decoder_type == "vocoder":
        prepared = {"mean": torch.zeros(config.hidden_size), "scale": torch.ones(config.hidden_size)}
    for key, value in state.items():
        if config.decoder_type == "vocoder" and key.startswith("decoder."):
            continue
        codebook, _, name = key.rpartition(".")
        if name == "embed":
            prepared[f"{codebook}.inited"] = torch.ones(1)
        is_table = name in ("embed", "embed_avg") and isinstance(value, Tensor) and value.ndim == 2
        prepared[key] = value.t().contiguous() if is_table else value
    return prepared


def _read_config(checkpoint: Path) -> dict | None:
    """The configuration beside an autoencoder; beside a vocoder and its autoencoder, both."""
    paths = [path.with_name("config.yml") for path in _files(checkpoint)]
    if not all(path.is_file() for path in paths):
        return None
    configs = [read_config_file(path) for path in paths]
    return configs[0] if len(configs) == 1 else dict(zip(("autoencoder", "vocoder"), configs, strict=True))


def _files(checkpoint: Path) -> list[Path]:
    """The file itself, and before a vocoder's the autoencoder's that it names.

    Raises:
        ConversionError: that autoencoder is not there.
    """
    config_file = checkpoint.with_name("config.yml")
    config = read_config_file(config_file) if config_file.is_file() else {}
    analyzer = config.get("analyzer")
    if analyzer is None:
        return [checkpoint]
    checkpoint = checkpoint.absolute()
    for folder in checkpoint.parents:
        if (folder / analyzer).is_file():
            return [folder / analyzer, checkpoint]
    raise ConversionError(
        f"{config_file} names {analyzer} as the vocoder's autoencoder, which is in no folder above it; put the two "
        "where the original's archive has them, or change `analyzer`."
    )


def _read(checkpoint: Path) -> State:
    """The tensors of all generators."""
    state: State = {}
    for path in _files(checkpoint):
        model = read_checkpoint(path).get("model")
        generator = model.get("generator") if isinstance(model, dict) else None
        if not isinstance(generator, dict) or not all(isinstance(key, str) for key in generator):
            raise ConversionError(f"{path} has no tensors at model, generator; is it a checkpoint of AudioDec?")
        state |= generator
    if not any(key.startswith("encoder.") for key in state):
        raise ConversionError(
            f"{checkpoint} holds no encoder. Of a vocoder, the original's config.yml must lie beside the file, "
            "because its `analyzer` names the autoencoder."
        )
    return state


CONVERTER = Converter(
    AudioDecCodecConfig,
    AudioDecCodecModel,
    RULES,
    config_from_original,
    read=_read,
    files=_files,
    prepare=_prepare,
    read_config=_read_config,
)

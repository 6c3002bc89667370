"""FunCodec's `model.pth` (or a trainer's `checkpoint.pth`) with the `config.yaml` that is released beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..configuration.funcodec import PLANES, SEMANTIC_MODES, FunCodecConfig
from ..modeling.funcodec import FunCodecModel
from ..modeling.layers.conv import NORM_TYPES, PAD_MODES
from .engine import ConversionError, Converter, Rules, State, read_checkpoint, read_config_file

_WRAPPED = r"(encoder|decoder)\.model\.(\d+(?:\.block\.\d+|\.shortcut)?)"

_RULES = [
    (_WRAPPED + r"\.(?:conv\.conv|convtr\.convtr)\.weight_g", r"\1.layers.\2.conv.parametrizations.weight.original0"),
    (_WRAPPED + r"\.(?:conv\.conv|convtr\.convtr)\.weight_v", r"\1.layers.\2.conv.parametrizations.weight.original1"),
    (_WRAPPED + r"\.(?:conv\.conv|convtr\.convtr)\.(weight|bias)", r"\1.layers.\2.conv.\3"),
    (_WRAPPED + r"\.(?:conv|convtr)\.norm\.(weight|bias)", r"\1.layers.\2.norm.\3"),
    (r"(encoder|decoder)\.model\.(\d+)\.lstm\.(.+)", r"\1.layers.\2.lstm.\3"),
    (r"(encoder|decoder)\.model\.(\d+(?:\.block\.\d+)?)\.alpha", r"\1.layers.\2.alpha"),
    (r"quantizer\.rq\.model\.layers\.(\d+)\._codebook\.(.+)", r"quantizer.layers.\1.codebook.\2"),
    # Of training: the discriminators are a model of their own, a model of the codes serves a loss only, the rest is
    # computed from the configuration.
    (r"discriminator\..+", None),
    (r"mel_spec_transforms\.\d+\.(?:mel_basis|window)", None),
    (r"(?:(?:enc|dec)_trans_func|stft_fun|inverse_fun)\.window", None),
    (r"context_model\..+", None),
]

# In every model of the kind codec_semantic_aug, whatever its mode needs.
_SEMANTIC = {
    "semantic": (r"ppg_embedding\.weight", r"semantic.embedding.weight"),
    "downsample": (r"ppg_ds_layer\.(\d)\.conv\.(.+)", r"semantic.downsample.\1.\2"),
    "join": (r"ppg_cond_layer\.0\.conv\.conv\.(weight|bias)", r"join.conv.\1"),
    "classifier": (r"ppg_classifier\.(\d)\.conv\.(.+)", r"classifier.layers.\1.\2"),
}

_STACKED = "quantizer.rq.model."

# The original's name of an argument -> ours, and the original's own default, which a config.yaml may leave unsaid.
_SEANET: dict[str, tuple[str, Any]] = {
    "n_filters": ("num_filters", 32),
    "n_residual_layers": ("num_residual_layers", 1),
    "ratios": ("upsampling_ratios", None),
    "activation": ("activation", "ELU"),
    "activation_params": ("activation_params", {"alpha": 1.0}),
    "norm": ("norm_type", "weight_norm"),
    "kernel_size": ("kernel_size", 7),
    "last_kernel_size": ("last_kernel_size", 7),
    "residual_kernel_size": ("residual_kernel_size", 3),
    "dilation_base": ("dilation_growth_rate", 2),
    "causal": ("use_causal_conv", False),
    "pad_mode": ("pad_mode", "reflect"),
    "compress": ("compress", 2),
    "seq_model": ("seq_model", "lstm"),
    "seq_layer_num": ("num_lstm_layers", 2),
    "true_skip": ("true_skip", False),
}
_ENCODER = {
    **_SEANET,
    "dimension": ("hidden_size", 128),
    "conv_group_ratio": ("encoder_group_ratio", -1),
}
_DECODER = {
    **_SEANET,
    "trim_right_ratio": ("trim_right_ratio", 1.0),
    "channels": ("channels", 1),
    "conv_group_ratio": ("decoder_group_ratio", -1),
    "tr_conv_group_ratio": ("transposed_group_ratio", -1),
}
# Ours, torch's class of it, torch's default for its options, and those that ours has.
_ACTIVATIONS = (
    ("elu", "ELU", {"alpha": 1.0}, {"alpha": 1.0}),
    ("leaky_relu", "LeakyReLU", {"negative_slope": 0.01}, {"negative_slope": 0.2}),
)
_GROUP_RATIOS = ("encoder_group_ratio", "decoder_group_ratio", "transposed_group_ratio")
_RATIOS_2D = [[4, 1], [4, 1], [4, 2], [4, 1]]
_QUANTIZER: dict[str, tuple[str, Any]] = {
    "codebook_size": ("codebook_size", 1024),
    "num_quantizers": ("num_quantizers", 8),
    "ema_decay": ("codebook_decay", 0.95),
    "quantize_dropout": ("quantizer_dropout", False),
    "rand_num_quant": ("quantizer_choices", None),
}
_MODEL: dict[str, tuple[str, Any]] = {
    "audio_normalize": ("normalize", None),
    "target_sample_hz": ("sampling_rate", 24_000),
    "segment_dur": ("chunk_length_s", 1.0),
    "overlap_ratio": ("overlap", 0.01),
    "codec_domain": ("codec_domain", None),
    "domain_conf": ("domain_conf", None),
    "ppg_conf": ("ppg_conf", None),
}
_PPG: dict[str, tuple[str, Any]] = {
    "ppg_dim": ("semantic_vocab_size", 86),
    "ppg_ds_rate": ("semantic_downsampling", 2),
    "ppg_ds_type": ("semantic_downsampling_conv", "conv"),
    "ppg_usage_mod": ("semantic_mode", "residual"),
}

# Ours and its values, where the original has more of them.
_CHOICES = {"norm_type": NORM_TYPES, "pad_mode": PAD_MODES}

# Values that a supported model may have; `...`: any, because nothing in our model depends on it.
_FIXED: dict[str, tuple] = {
    "final_activation": (None,),
    "final_activation_params": (None, {}),
    "norm_params": ({}, {"num_groups": 1}),
    "res_seq": (True,),
    "double_filters": (True,),
    "half_filters": (True,),
    "add_snake_activation": (False,),
    "codec_dim": (None,),
    "codec_range": (None,),
    "q0_ds_ratio": (1,),
    "bypass_quantizer": (False,),
    "last_out_padding": ([[0, 1], [0, 0]],),
    **dict.fromkeys(
        (
            "input_size",
            # Of the quantizer: how a new codebook starts, how it is stored, and what its rates are reckoned from.
            "kmeans_init",
            "use_ddp",
            "sampling_rate",
            "encoder_hop_length",
            # Of the model: its losses.
            "odim",
            "multi_spectral_window_powers_of_two",
            "multi_spectral_n_mels",
            "recon_loss_weight",
            "multi_spectral_recon_loss_weight",
            "adversarial_loss_weight",
            "feat_match_loss_weight",
            "enc_quant_loss_weight",
            "commit_loss_weight",
            "use_power_spec_loss",
            "context_loss_weight",
            "context_loss_conf",
            "phase_invariant_training",
            "pit_feat_loss_weight",
            "pit_disc_loss_weight",
            "feat_match_layer_start",
        ),
        (...,),
    ),
}


def config_from_original(original: dict) -> FunCodecConfig:
    """A released `config.yaml`, as a dict, to our configuration; what it leaves unsaid has the original's defaults.

    Raises:
        ConversionError: a part or an option that is unknown, or that no published model or recipe has.
    """
    kind = _require(original, "model", "encodec", "freq_codec", "codec_semantic_aug")
    encoder_kind = _require(original, "encoder", "encodec_seanet_encoder", "encodec_seanet_encoder_2d")
    two_dimensional = encoder_kind.endswith("_2d")
    _require(original, "decoder", encoder_kind.replace("encoder", "decoder"))
    _require(original, "quantizer", "costume_quantizer")
    _require(original, "frontend", None)
    _require(original, "normalize", None)
    encoder = _read(original, "encoder_conf", _ENCODER)
    decoder = _read(original, "decoder_conf", _DECODER)
    quantizer = _read(original, "quantizer_conf", _QUANTIZER)
    model = _read(original, "model_conf", _MODEL)
    for name in encoder.keys() & decoder.keys():
        if encoder[name] != decoder[name]:
            raise ConversionError(
                f"encoder_conf and decoder_conf must agree, but {name} is {encoder[name]!r} and {decoder[name]!r}."
            )
    fields = {**encoder, **decoder}
    for name, choices in _CHOICES.items():
        if fields[name] not in choices:
            raise ConversionError(f"{name}={fields[name]!r} is not supported; {', '.join(choices)} are.")
    fields["activation"] = _activation(fields["activation"], fields.pop("activation_params"))
    fields["use_conv_shortcut"] = not fields.pop("true_skip")
    fields["num_lstm_layers"] = _lstm_layers(fields.pop("seq_model"), fields["num_lstm_layers"])
    for name in _GROUP_RATIOS:
        fields[name] = fields[name] if fields[name] > 0 else None
    ratios = fields["upsampling_ratios"] or (_RATIOS_2D if two_dimensional else [8, 5, 4, 2])
    if two_dimensional:
        fields["frequency_ratios"], ratios = zip(*ratios, strict=True)
    fields["upsampling_ratios"] = ratios
    channels, planes = fields.pop("channels"), original.get("input_size", 1)
    if channels != planes:
        raise ConversionError(f"the decoder has {channels} channels, but input_size is {planes}.")
    fields |= _domain(model.pop("codec_domain"), model.pop("domain_conf") or {}, channels, two_dimensional)
    fields |= _semantic(kind, model.pop("ppg_conf"))
    # The original's own default differs between its models.
    model["normalize"] = kind == "encodec" if model["normalize"] is None else model["normalize"]
    counted_in = model["sampling_rate"]
    model["sampling_rate"] = original.get("sampling_rate", counted_in)
    if model["chunk_length_s"] is None:
        model["overlap"] = None
    else:
        _check_segments(model, counted_in, fields.get("semantic_mode") not in (None, "supervision"))
    choices = quantizer["quantizer_choices"]
    quantizer["quantizer_dropout"] = float(quantizer["quantizer_dropout"] and choices is not None)
    return FunCodecConfig(**fields, **quantizer, **model)


def _check_segments(model: dict, counted_in: int, semantic: bool) -> None:
    """Refuse segments (of 1 s where `config.yaml` says nothing) that are not those of `chunk_length_s`."""
    if semantic:
        raise ConversionError(
            "segment_dur is not null (1 s where config.yaml does not say), but semantic ids do not come in segments "
            "here."
        )
    if counted_in != model["sampling_rate"]:
        raise ConversionError(
            f"segment_dur counts {counted_in} samples a second (target_sample_hz), and sampling_rate is "
            f"{model['sampling_rate']}; segments need both to be the same."
        )
    if model["overlap"] is None:
        raise ConversionError("overlap_ratio is null; segments need it, as a share of segment_dur.")


def _domain(given: str | list | None, options: dict, channels: int, two_dimensional: bool) -> dict:
    """The fields that say what the network reads and writes."""
    kinds = {given} if isinstance(given, str) else set(given or ["time"])
    if len(kinds) != 1 or not kinds <= {"time", *PLANES}:
        raise ConversionError(
            f"codec_domain: {given!r} is not supported; reading and writing must be the same, one of "
            f"{', '.join(('time', *PLANES))}."
        )
    domain = kinds.pop()
    unknown = set(options) - {"n_fft", "hop_length"}
    if unknown:
        raise ConversionError(f"domain_conf has the unknown options {sorted(unknown)}.")
    if domain == "time":
        return {}
    fields = {"domain": domain, "window_size": options.get("n_fft", 512)}
    expected = PLANES[domain] if two_dimensional else PLANES[domain] * (fields["window_size"] // 2 + 1)
    if channels != expected:
        raise ConversionError(f"{domain} spectra have {expected} channels here, but input_size is {channels}.")
    return {**fields, "stft_hop_length": options.get("hop_length", 160)}


def _semantic(kind: str, options: dict | None) -> dict:
    """The fields about semantic ids."""
    if kind != "codec_semantic_aug":
        return {}
    fields = _read({"ppg_conf": options}, "ppg_conf", _PPG)
    mode = fields["semantic_mode"]
    if mode == "ptts":
        raise ConversionError(
            "ppg_usage_mod: ptts is not supported; the original itself lacks what it needs to run. "
            "The modes residual, addition, concat and supervision are."
        )
    # As there, every other name means concat, and every other way of bringing ids to the frame rate is to skip some.
    fields["semantic_mode"] = mode if mode in SEMANTIC_MODES else "concat"
    fields["semantic_downsampling_conv"] = fields["semantic_downsampling_conv"] == "conv"
    return fields


def rules(config: FunCodecConfig) -> Rules:
    """The keys of a model; those of layers that its way of using semantic ids leaves idle are dropped."""
    if config.semantic_mode is None:
        return _RULES
    supervised = config.semantic_mode == "supervision"
    used = {
        "semantic": not supervised,
        "downsample": config.semantic_downsampling_conv and not supervised,
        "join": config.semantic_mode == "concat",
        "classifier": supervised,
    }
    return _RULES + [(pattern, target if used[part] else None) for part, (pattern, target) in _SEMANTIC.items()]


def _require(original: dict, part: str, *known: str | None) -> str | None:
    """The value of a field, the first of the known ones by default."""
    value = original.get(part, known[0])
    if value not in known:
        allowed = " or ".join(map(str, known))
        raise ConversionError(f"{part}: {value} is not supported; every published model has {allowed}.")
    return value


def _read(original: dict, section: str, known: dict[str, tuple[str, Any]]) -> dict:
    """The fields that a section of the configuration decides."""
    given = original.get(section) or {}
    for name, value in given.items():
        if name in known:
            continue
        if name not in _FIXED:
            raise ConversionError(
                f"{section} has the unknown option {name!r}; if it serves training only, remove it from config.yaml."
            )
        allowed = _FIXED[name]
        if allowed != (...,) and value not in allowed:
            raise ConversionError(
                f"{section}: {name}={value!r} is not supported; every published model has {allowed[0]!r}."
            )
    return {ours: given.get(name, default) for name, (ours, default) in known.items()}


def _activation(name: str, options: dict) -> str:
    if name.lower() == "snake":  # which has no options: the original ignores what it is given
        return "snake"
    for ours, theirs, default, known in _ACTIVATIONS:
        if name == theirs and {**default, **options} == known:
            return ours
    raise ConversionError(
        f"activation={name!r} with activation_params={options!r} is not supported; every published model has 'ELU' "
        "with alpha 1; 'snake', and 'LeakyReLU' with negative_slope 0.2, are supported too."
    )


def _lstm_layers(kind: str | None, layers: int) -> int:
    if kind in (None, "none"):
        return 0
    if kind != "lstm":
        raise ConversionError(f"seq_model: {kind} is not supported; every published model has lstm or none.")
    return layers


def _read_state(path: Path) -> State:
    """The model's state: all of `model.pth`, a part of the trainer's `checkpoint.pth`."""
    state = read_checkpoint(path)
    return state["model"] if isinstance(state.get("model"), dict) else state


def _read_config(checkpoint: Path) -> dict | None:
    beside = checkpoint.parent / "config.yaml"
    return read_config_file(beside) if beside.is_file() else None


def _prepare(state: State, config: FunCodecConfig) -> State:
    return dict(_unstacked(state))


def _unstacked(state: State) -> Iterator[tuple[str, Tensor]]:
    """The codebooks' buffers, stacked on a first axis in the original, one by one."""
    for key, value in state.items():
        name = key.removeprefix(_STACKED)
        if name == key or "." in name or not isinstance(value, torch.Tensor) or value.ndim == 0:
            yield key, value
            continue
        for index, part in enumerate(value.unbind()):
            yield f"{_STACKED}layers.{index}._codebook.{name}", part


CONVERTER = Converter(
    FunCodecConfig,
    FunCodecModel,
    rules,
    config_from_original,
    read=_read_state,
    prepare=_prepare,
    read_config=_read_config,
)

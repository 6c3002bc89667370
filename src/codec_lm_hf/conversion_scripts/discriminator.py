"""Discriminators as the originals' trainers write them. Trained weights of one were never released.

Read are EnCodec's module alone, Descript's `weights.pth`, the `do_*` files of HiFi-Codec, SpeechTokenizer's trainer
package, the trainer checkpoints of AudioDec, and FunCodec's `model.pth`.
"""

from __future__ import annotations

import re

from ..configuration.discriminators import (
    ENCODEC_PAPER_SIZES,
    HIFIGAN_PERIODS,
    CodecDiscriminatorConfig,
    band_parts,
    magnitude_parts,
    period_parts,
    scale_parts,
    stft_parts,
)
from ..modeling.discriminators import CodecDiscriminator
from .engine import ConversionError, Converter, Rules, State, check_fixed, read_nested

# How the originals call a group of parts of one kind.
_GROUP = {"period": "mpd", "scale": "msd", "stft": "mstftd", "magnitude": "mrsd|mrd|msd", "bands": "mrd"}
_NORMED = [
    (r"weight_g", "parametrizations.weight.original0"),
    (r"weight_v", "parametrizations.weight.original1"),
    (r"(weight|bias)", r"{group}"),
]
# Of scales: each at half the rate of the one before it.
_POOLING = {
    "downsample_pooling": "AvgPool1d",
    "downsample_pooling_params": {"kernel_size": 4, "stride": 2, "padding": 2},
}
_SPECTRAL = [
    (r"weight_orig", "parametrizations.weight.original"),
    (r"weight_u", "parametrizations.weight.0.u"),
    (r"weight_v", "parametrizations.weight.0.v"),
    (r"(weight|bias)", r"{group}"),
]
# Arguments of `MultiScaleSTFTDiscriminator` that no part has. With a `filters_scale` of 1, `max_filters` does nothing.
_FIXED = {"out_channels": 1, "activation": "LeakyReLU", "filters_scale": 1}
# Of SoundStream's kinds.
_LAYERS = {
    "wave": [
        (r"init_conv\.", r"first."),
        (r"conv_layers\.(\d+)\.0\.", r"convs.\1."),
        (r"final_conv\.0\.", r"hidden."),
        (r"final_conv\.2\.", r"conv_post."),
    ],
    "complex_stft": [
        (r"init_conv\.", r"first."),
        (r"layers\.(\d+)\.(\d)\.", r"units.\1.\2."),
        (r"final_conv\.", r"conv_post."),
    ],
}
_FUNCODEC_PART = re.compile(
    r"(?:model/)?discriminator\.discriminators\.(\d+)\.(?:(msd|mpd)\.)?(?:discriminators\.(\d+)\.)?(.+)"
)


def rules(config: CodecDiscriminatorConfig) -> Rules:
    """The keys of every part, wherever it stands in the original."""
    kinds = list(dict.fromkeys(part["kind"] for part in config.parts))
    table: list[tuple[str, str | None]] = []
    seen = dict.fromkeys(kinds, 0)
    for index, part in enumerate(config.parts):
        kind = part["kind"]
        if kind in _LAYERS:
            table += [
                (
                    rf"discriminators\.{index}\.{layer}(?P<name>weight|bias|b)",
                    rf"discriminators.{index}.{ours}\g<name>",
                )
                for layer, ours in _LAYERS[kind]
            ]
            continue
        place, seen[kind] = seen[kind], seen[kind] + 1
        origin = (
            rf"(?:(?:state_dict/)?discriminators\.{index}"
            rf"|(?:discriminators/)?(?:model/discriminator/)?(?:{_GROUP[kind]})[/.]discriminators\.{place})\."
        )
        table.append((origin + r"(?:spec_transform\.)?window", None))
        options = config.options(index)
        last = len(options["kernel_sizes"]) - 1 if kind == "magnitude" else len(options.get("channels", ()))
        for pattern, target in _SPECTRAL if part.get("norm_type") == "spectral_norm" else _NORMED:
            ours = rf"discriminators.{index}."
            table += [
                # Some count the last convolution among the layers.
                (
                    origin + rf"(?:conv_post|output_conv|layers\.{last})(?:\.conv)?\." + pattern,
                    ours + "conv_post." + target.format(group=r"\1"),
                ),
                (
                    origin + r"(?:convs|layers)\.(\d+)(?:\.0)?(?:\.conv)?\." + pattern,
                    ours + r"convs.\1." + target.format(group=r"\2"),
                ),
                (
                    origin + r"band_convs\.(\d+)\.(\d+)\.0\." + pattern,
                    ours + r"band_convs.\1.\2." + target.format(group=r"\3"),
                ),
            ]
    # What lies beside the discriminator in such files.
    trainer = r"(?:metadata|optim_g|optim_d|optimizer|scheduler|model/generator)/.*|steps|epochs?"
    trainer += r"|(?:reporter|scaler)(?:/.*)?|optimizers|schedulers|ema_model"
    parts = "encoder|quantizer|decoder|mel_spec_transforms|context_model|ppg_\\w+"
    funcodec = rf"(?:model/)?(?:{parts}|enc_trans_func|dec_trans_func|stft_fun|inverse_fun)\..*"
    return [*table, (trainer, None), (funcodec, None)]


def _prepare(state: State, config: CodecDiscriminatorConfig) -> State:
    """FunCodec's parts, which lie in groups as its `disc_conf_list` has them, numbered as in `config.parts`."""
    found = {key: match for key in state if (match := _FUNCODEC_PART.fullmatch(key))}
    # Where one group holds both, those of the scales come first.
    place = {key: (int(match[1]), match[2] == "mpd", int(match[3] or 0)) for key, match in found.items()}
    number = {part: index for index, part in enumerate(sorted(set(place.values())))}
    return {
        f"discriminators.{number[place[key]]}.{found[key][4]}" if key in found else key: value
        for key, value in state.items()
    }


def config_from_original(original: dict) -> CodecDiscriminatorConfig:
    """The arguments of any of the originals to our configuration.

    Raises:
        ConversionError: they are none of theirs.
    """
    if "discriminator_params" in original:
        return _from_audiodec(original["discriminator_params"])
    if "disc_conf_list" in original:
        return CodecDiscriminatorConfig(parts=sum(map(_funcodec, original["disc_conf_list"]), []))
    if "periods" in original and "rates" in original:
        return _from_dac(original)
    if "mstftd" in original:
        return _from_hifigan_relative(original)
    if "filters" in original or "n_ffts" in original:
        return _from_encodec(original)
    raise ConversionError(f"no original describes a discriminator with the fields {sorted(original)}.")


def _stft(options: dict) -> list[dict]:
    check_fixed(options, _FIXED)
    names = {"norm": "norm_type"}
    left_out = {*_FIXED, "max_filters", "activation_params"}
    known = {names.get(name, name): value for name, value in options.items() if name not in left_out}
    return stft_parts(**known, **_slope(options, "activation"))


def _from_encodec(original: dict) -> CodecDiscriminatorConfig:
    """Constructor arguments of `MultiScaleSTFTDiscriminator`."""
    options = {name: value for name, value in original.items() if name != "in_channels"}
    return CodecDiscriminatorConfig(parts=_stft(options), audio_channels=original.get("in_channels", 1))


def _from_hifigan_relative(original: dict) -> CodecDiscriminatorConfig:
    """Groups `mpd`, `msd` and `mstftd`, as in HiFi-Codec and SpeechTokenizer; what is not said is as in HiFi-GAN."""
    period, scale = ({} if not isinstance(original.get(name), dict) else original[name] for name in ("mpd", "msd"))
    widths = {"channels": period["ch"]} if "ch" in period else {}
    scale_widths = {"channels": scale["ch"]} if "ch" in scale else {}
    if "gr" in scale:
        scale_widths["groups"] = (1, *scale["gr"], 1)
    return CodecDiscriminatorConfig(
        parts=period_parts(period.get("periods", HIFIGAN_PERIODS), **widths)
        + scale_parts(scale.get("n", 3), **scale_widths)
        + _stft({"n_ffts": ENCODEC_PAPER_SIZES, **original["mstftd"]})
    )


def _decimation(original: dict, rate: int) -> int | list[int]:
    """What Descript divides the rate by: the lower rate is a whole number of Hz."""
    higher = original.get("sample_rate", 44_100)
    lower = higher // rate
    return rate if lower * rate == higher else [higher, lower]


def _from_dac(original: dict) -> CodecDiscriminatorConfig:
    """Constructor arguments of Descript's `Discriminator`; its widths are fixed, `*_ch` and `msd_groups` vary them."""
    period = {"channels": original["mpd_ch"]} if "mpd_ch" in original else {}
    bands = {"bands": original["bands"]} if "bands" in original else {}
    if "mrd_ch" in original:
        bands["filters"] = original["mrd_ch"]
    scale = {
        "channels": original.get("msd_ch", (16, 64, 256, 1024, 1024, 1024)),
        "kernel_sizes": (15, 41, 41, 41, 41, 5),
        "strides": (1, 4, 4, 4, 4, 1),
        "groups": (1, *original.get("msd_groups", (4, 16, 64, 256)), 1),
    }
    sizes = original.get("fft_sizes", original.get("ffts"))
    return CodecDiscriminatorConfig(
        parts=period_parts(original["periods"], whole_extra_period=True, **period)
        + [{"kind": "scale", "decimation": _decimation(original, rate), **scale} for rate in original["rates"]]
        + band_parts(sizes, **bands),
        level_input=True,
    )


def _parallel_wavegan_scales(count: int, options: dict) -> list[dict]:
    """Widths and groups grow from layer to layer up to a limit; no norm arrives there."""
    check_fixed(options, {"bias": True})
    first, *rest = options["kernel_sizes"]
    strides, widths, groups = options["downsample_scales"], [options["channels"]] * 2, [1, 4]
    for _ in strides[1:]:
        widths.append(min(widths[-1] * 2, options["max_downsample_channels"]))
        groups.append(min(groups[-1] * 4, options["max_groups"]))
    widths.append(min(widths[-1] * 2, options["max_downsample_channels"]))
    return scale_parts(
        count,
        first_norm_type="none",
        norm_type="none",
        channels=widths,
        kernel_sizes=(first, *[rest[0]] * len(strides), rest[1]),
        strides=(1, *strides, 1),
        groups=(*groups, 1),
        last_kernel_size=rest[2],
        **_slope(options),
    )


def _parallel_wavegan_periods(periods: list[int], options: dict) -> list[dict]:
    widths = [options["channels"]]
    for _ in options["downsample_scales"][1:]:
        widths.append(min(widths[-1] * 4, options["max_downsample_channels"]))
    kernel_size, last_kernel_size = options["kernel_sizes"]
    norms = {"weight_norm": options.get("use_weight_norm", True), "spectral_norm": options.get("use_spectral_norm")}
    return period_parts(
        periods,
        channels=widths,
        strides=options["downsample_scales"],
        kernel_size=kernel_size,
        last_kernel_size=last_kernel_size - 1,
        norm_type=next((name for name, used in norms.items() if used), "none"),
        **_slope(options),
    )


def _from_audiodec(params: dict) -> CodecDiscriminatorConfig:
    """`discriminator_params` of a training configuration, HiFi-GAN's or UnivNet's."""
    periods = _parallel_wavegan_periods(params["periods"], params["period_discriminator_params"])
    if "scales" in params:
        check_fixed(params, {f"scale_{name}": value for name, value in _POOLING.items()})
        scales = _parallel_wavegan_scales(params["scales"], params["scale_discriminator_params"])
        return CodecDiscriminatorConfig(parts=scales + periods)
    options = params["spectral_discriminator_params"]
    check_fixed(params, {"window": "hann_window"})
    check_fixed(options, {"bias": True})
    spectra = magnitude_parts(
        params["fft_sizes"],
        params["hop_sizes"],
        params["win_lengths"],
        filters=options["channels"],
        kernel_sizes=options["kernel_sizes"],
        strides=options["strides"],
        norm_type="weight_norm" if options.get("use_weight_norm", True) else "none",
        **_slope(options),
    )
    return CodecDiscriminatorConfig(parts=spectra + periods)


_FUNCODEC_PERIODS = {
    "kernel_sizes": (5, 3),
    "channels": 32,
    "downsample_scales": (3, 3, 3, 3, 1),
    "max_downsample_channels": 1024,
}
_FUNCODEC_SCALES = {
    "kernel_sizes": (15, 41, 5, 3),
    "channels": 128,
    "max_downsample_channels": 1024,
    "max_groups": 16,
    "downsample_scales": (2, 2, 4, 4, 1),
}


def _funcodec(conf: dict) -> list[dict]:
    """One entry of `disc_conf_list`."""
    name, options = conf["name"], {key: value for key, value in conf.items() if key != "name"}
    if name == "encodec_multi_scale_stft_discriminator":
        return _funcodec_stft(options)
    if name == "hifigan_multi_period_discriminator":
        return _funcodec_periods(options, options.get("discriminator_params"))
    if name == "hifigan_multi_scale_discriminator":
        return _funcodec_scales(options, options.get("discriminator_params"), "")
    if name == "hifigan_multi_scale_multi_period_discriminator":
        return _funcodec_scales(options, options.get("scale_discriminator_params"), "scale_") + _funcodec_periods(
            options, options.get("period_discriminator_params")
        )
    if name == "soundstream_multi_scale_discriminator":
        return _soundstream_waves(options)
    if name == "soundstream_complex_stft_discriminator":
        return [_renamed(options, kind="complex_stft")]
    raise ConversionError(f"FunCodec's {name!r} is not supported; no published model has it.")


def _soundstream_waves(options: dict) -> list[dict]:
    scales = options.get("disc_multi_scales", (1, 0.5, 0.25))
    # Each lowers the rate of the audio, not that of the scale before it.
    poolings = [1, *(int(higher / lower) for higher, lower in zip(scales[:-1], scales[1:], strict=True))]
    params = options.get("discriminator_params", {})
    return [_renamed(params, kind="wave", pooling=pooling) for pooling in poolings]


def _renamed(options: dict, **fields) -> dict:
    """The options of one of SoundStream's parts by our names, after `fields`."""
    ours = {
        "wave": {"layers": "num_layers", "chan_max": "max_channels"},
        "complex_stft": {
            "channels": "filters",
            "chan_mults": "multipliers",
            "stft_normalized": "normalized",
            "logits_abs": "absolute_logits",
        },
    }[fields["kind"]]
    return {**fields, **{ours.get(name, name): value for name, value in options.items()}}


def _funcodec_stft(options: dict) -> list[dict]:
    # Filters do not grow: a model with another filters_scale cannot be built there.
    known = {name: value for name, value in options.items() if name not in ("filters_scale", "max_filters")}
    known = {"filters": 32, "n_ffts": (1024, 2048, 512), **known, "pooled_logits": True}
    check_fixed(options, {"filters_scale": 1})
    if options.get("max_filters", 1024) < known["filters"]:
        raise ConversionError(f"max_filters {options['max_filters']} are fewer than filters {known['filters']}.")
    return _stft(known)


def _funcodec_periods(options: dict, given: dict | None) -> list[dict]:
    params = {**_FUNCODEC_PERIODS, **(given or {})}
    check_fixed(params, {"bias": True})
    return _parallel_wavegan_periods(options.get("periods", HIFIGAN_PERIODS), params)


def _funcodec_scales(options: dict, given: dict | None, prefix: str) -> list[dict]:
    check_fixed(options, {f"{prefix}{name}": value for name, value in _POOLING.items()})
    return _parallel_wavegan_scales(options.get("scales", 3), {**_FUNCODEC_SCALES, **(given or {})})


def _slope(options: dict, activation: str = "nonlinear_activation") -> dict:
    """Of the leaky ReLUs, where the options say anything."""
    check_fixed(options, {activation: "LeakyReLU"})
    params = options.get(f"{activation}_params")
    return {} if params is None else {"negative_slope": float(params.get("negative_slope", 0.01))}


CONVERTER = Converter(
    CodecDiscriminatorConfig, CodecDiscriminator, rules, config_from_original, read=read_nested, prepare=_prepare
)

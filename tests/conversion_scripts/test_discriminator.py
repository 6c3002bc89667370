"""Discriminators as AudioDec's trainer writes them. Numbers are compared in tests/parity."""

from __future__ import annotations

import json

import pytest
import torch

from codec_lm_hf.conversion_scripts import ConversionError
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER, config_from_original
from codec_lm_hf.conversion_scripts.engine import load_original
from codec_lm_hf.modeling.discriminators import CodecDiscriminator
from tests.parity.harness import find_cases

CASE = next(path for path in find_cases() if path.parts[-2:] == ("audiodec", "symaad_univ_v0"))
UNIVNET = json.loads((CASE / "case.json").read_text())["config"]["autoencoder"]["discriminator_params"]
HIFIGAN = {
    "scales": 2,
    "scale_discriminator_params": {
        "kernel_sizes": [15, 41, 5, 3],
        "channels": 8,
        "max_downsample_channels": 32,
        "max_groups": 2,
        "downsample_scales": [4, 1],
    },
    "periods": [2],
    "period_discriminator_params": UNIVNET["period_discriminator_params"],
}


def changed(params: dict, group: str, **fields) -> dict:
    return {"discriminator_params": {**params, group: {**params[group], **fields}}}


def original_name(config, name: str) -> str:
    """Our tensor's name in AudioDec's file."""
    _, index, layer, rest = name.split(".", 3)
    part, spectra = config.parts[int(index)], len(UNIVNET["fft_sizes"])
    if part["kind"] == "magnitude":
        place, rest = rest.split(".", 1) if layer == "convs" else (len(part["kernel_sizes"]) - 1, rest)
        origin = f"mrsd.discriminators.{index}.layers.{place}" + (".0" if layer == "convs" else "")
    else:
        place, rest = rest.split(".", 1) if layer == "convs" else (None, rest)
        origin = f"mpd.discriminators.{int(index) - spectra}."
        origin += "output_conv" if place is None else f"convs.{place}.0"
    for ours, theirs in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        rest = rest.replace(ours, theirs)
    return f"{origin}.conv.{rest}"


def test_univnet_s_parts_are_read_with_their_windows(tmp_path):
    config = config_from_original({"discriminator_params": UNIVNET})
    model = CodecDiscriminator(config).eval()
    state = {original_name(config, name): value for name, value in model.state_dict().items()}
    state |= {f"mrsd.discriminators.{i}.window": torch.hann_window(n) for i, n in enumerate(UNIVNET["win_lengths"])}
    torch.save({"model": {"generator": {}, "discriminator": state}, "steps": 1}, tmp_path / "checkpoint.pkl")
    read = load_original(CONVERTER, tmp_path / "checkpoint.pkl", config)
    torch.testing.assert_close(read.state_dict(), model.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"use_weight_norm": False}, {"norm_type": "none"}),
        ({"use_weight_norm": False, "use_spectral_norm": True}, {"norm_type": "spectral_norm"}),
        ({"nonlinear_activation_params": {"negative_slope": 0.3}}, {"negative_slope": 0.3}),
        ({"bias": False}, {"norm_type": "weight_norm"}),
    ],
)
def test_norm_and_slope_of_periods_are_read(fields, expected):
    options = config_from_original(changed(HIFIGAN, "period_discriminator_params", **fields)).options(-1)
    assert {name: options[name] for name in expected} == expected


def test_groups_of_scales_begin_with_four_whatever_their_limit():
    config = config_from_original({"discriminator_params": HIFIGAN})
    assert config.options(0)["groups"] == (1, 4, 2, 1)


@pytest.mark.parametrize(
    ("original", "message"),
    [
        (changed(HIFIGAN, "scale_discriminator_params", bias=False), "bias=False is not supported"),
        (
            changed(UNIVNET, "spectral_discriminator_params", nonlinear_activation="ELU"),
            "='ELU' is not supported",
        ),
        (
            {"discriminator_params": {**UNIVNET, "window": "hamming_window"}},
            "window='hamming_window' is not supported",
        ),
        (
            {"discriminator_params": {**HIFIGAN, "scale_downsample_pooling": "MaxPool1d"}},
            "MaxPool1d.* is not supported",
        ),
    ],
)
def test_what_would_be_built_otherwise_is_refused(original, message):
    with pytest.raises(ConversionError, match=message):
        config_from_original(original)

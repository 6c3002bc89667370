"""Layers in half precision give float32's numbers, as far as rounding goes; codes do not change at all."""

from __future__ import annotations

import pytest
import torch

from codec_lm_hf.modeling.layers.conv import Conv1d, ConvTranspose1d
from tests.common.tiny import TINY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer_class", [Conv1d, ConvTranspose1d])
@pytest.mark.parametrize(("channels", "stride"), [((8, 16), 2), ((16, 32), 4), ((16, 32), 8), ((32, 64), 5)])
def test_strided_convolutions(layer_class, channels, stride, dtype):
    """oneDNN's own of 16 channels, stride 4 and 8 are noise in bfloat16 on some CPUs."""
    torch.manual_seed(0)
    layer = layer_class(*channels, 2 * stride, stride=stride)
    x = torch.randn(1, channels[0], 1000)
    with torch.no_grad():
        expected = layer(x)
        with torch.autocast("cpu", dtype=dtype):
            autocast = layer(x)
        found = layer.to(dtype)(x.to(dtype))
    limit = 4 * torch.finfo(dtype).eps * expected.abs().max()
    assert (autocast.float() - expected).abs().max() < limit
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < limit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "options", "conditions"),
    [
        ("soundstream", {"denoising": "encoder"}, {}),
        ("soundstream", {"denoising": "decoder"}, {}),
        *[
            (
                "funcodec",
                {"semantic_mode": mode, "semantic_vocab_size": 10},
                {"semantic_ids": torch.arange(14)[None] % 10},
            )
            for mode in ("residual", "addition", "concat")
        ],
    ],
)
def test_what_stands_between_encoder_and_decoder(name, options, conditions, dtype):
    """It is float32 where codes depend on it, and otherwise gives the decoder what it takes."""
    model, half = TINY[name].model(**options), TINY[name].model(**options).to(dtype)
    audio = torch.randn(1, 1, 2000) * 0.1
    with torch.no_grad():
        expected, found = model(audio, **conditions), half(audio, **conditions)
    assert torch.equal(found.audio_codes, expected.audio_codes)
    assert found.audio_values.dtype == dtype
    half.train()(audio, **conditions).loss.backward()

"""What is DAC's own: native checkpoints, representations between codes and latents, dropout of codebooks."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from transformers import DacConfig, DacModel

import codec_lm_hf
from tests.common.tiny import TINY
from tests.common.weights import assert_holds


@pytest.fixture
def native(tmp_path):
    """A checkpoint of transformers' own class, as `descript/dac_16khz` is one, and the model."""
    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 3, 5],
        decoder_hidden_size=36,
        n_codebooks=4,
        codebook_size=32,
        codebook_dim=4,
    )
    model = DacModel(config).eval()
    for name, parameter in model.named_parameters():
        # Small weights, and no alpha near zero: snakes magnify rounding.
        mean = 1.0 if name.endswith("alpha") else 0.0
        torch.nn.init.normal_(parameter, mean, 0.1)
    model.save_pretrained(tmp_path / "native")
    return model, tmp_path / "native"


def test_native_checkpoints_load_as_our_class(native):
    theirs, folder = native
    with mock.patch("transformers.configuration_utils.logger.warning") as warning:  # of another model_type
        ours = codec_lm_hf.AutoCodecModel.from_pretrained(folder).eval()
    warning.assert_not_called()
    assert type(ours) is codec_lm_hf.DacCodecModel
    assert ours.config.hop_length == theirs.config.hop_length and ours.config.hidden_size == theirs.config.hidden_size
    audio = torch.randn(2, 1, 20 * ours.config.hop_length) * 0.3
    with torch.no_grad():
        expected = theirs(audio)
        codes = ours.encode(audio).audio_codes
        decoded = ours.decode(codes).audio_values
    assert torch.equal(codes, expected.audio_codes)
    torch.testing.assert_close(decoded[:, 0], expected.audio_values[:, : decoded.shape[-1]], atol=2e-5, rtol=1e-4)
    assert len(codes.unique()) > 5


def test_every_weight_of_a_native_checkpoint_arrives(native):
    _, folder = native
    _, info = codec_lm_hf.DacCodecModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_what_was_native_is_saved_as_ours(native, tmp_path):
    _, folder = native
    first = codec_lm_hf.AutoCodecModel.from_pretrained(folder)
    first.save_pretrained(tmp_path / "ours")
    second, info = codec_lm_hf.DacCodecModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert second.config.model_type == "dac_codec"
    assert_holds(second, first)


def test_the_quantizer_stays_float32():
    model = TINY["dac"].model()
    audio = torch.randn(1, 1, 4000) * 0.1
    latents = model._encode_latents(audio)
    expected = model.quantizer.project(latents)
    model.to(torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in model.quantizer.parameters())
    for found, value in zip(model.quantizer.project(latents), expected, strict=True):
        assert torch.equal(found, value)


def test_codes_latents_and_projections_belong_together():
    quantizer = TINY["dac-latent"].model().quantizer
    latents = torch.randn(2, 12, 7)
    with torch.no_grad():
        codes, projections = quantizer.project(latents)
        from_codes, entries, same = quantizer.from_codes(codes)
        from_latents, found_entries, found = quantizer.from_latents(projections)
        partial = quantizer.from_latents(projections[:, : 8 + 4 + 5])
    assert same is codes and torch.equal(found, codes)
    assert torch.equal(found_entries, entries) and torch.equal(from_latents, from_codes)
    # The third codebook needs six channels.
    assert torch.equal(partial[2], codes[:, :2])
    with pytest.raises(ValueError, match="has 7 channels, fewer than the 8 of the first codebook"):
        quantizer.from_latents(projections[:, :7])


def test_dropout_draws_for_a_fixed_share_of_the_rows():
    model = TINY["dac"].model().train()
    counts = model._drop_quantizers(4, 10, 0.5)
    assert (counts[5:] == 4).all() and (counts[:5] >= 1).all() and (counts[:5] <= 4).all()
    assert len({int(model._drop_quantizers(4, 2, 0.5)[0]) for _ in range(50)}) == 4
    assert model._drop_quantizers(3, 10, 0.0) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"audio_channels": 2}, "DAC is mono, got audio_channels=2"),
        ({"upsampling_ratios": (8, 4, 2)}, "must multiply to what downsampling_ratios"),
        ({"decoder_hidden_size": 15}, r"decoder_hidden_size \(15\) is halved"),
        ({"codebook_dim": (8, 8)}, "one for each of 9 codebooks"),
    ],
)
def test_configurations_that_make_no_codec(fields, message):
    with pytest.raises(Exception, match=message):
        codec_lm_hf.DacCodecConfig(**fields)

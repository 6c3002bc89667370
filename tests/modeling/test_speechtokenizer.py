"""What SpeechTokenizer has beyond the codec contract: spans of codebooks, content features, its two kinds of files."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

import codec_lm_hf
from codec_lm_hf.conversion_scripts import ConversionError, speechtokenizer
from tests.common.tiny import TINY

NAMES = ("speechtokenizer", "speechtokenizer-snake")
ORIGINAL = {
    "n_filters": 4,
    "strides": [8, 5, 4, 2],
    "dimension": 16,
    "semantic_dimension": 12,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "ELU",
    "codebook_size": 64,
    "n_q": 4,
    "sample_rate": 16000,
}


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("name", NAMES)
def test_a_span_quantizes_the_encoders_whole_output(name):
    model, audio = TINY[name].model(), noise(2, 1, 3000)
    span = model.encode(audio, first_quantizer=2).audio_codes
    assert span.shape == (2, 2, 10)
    with torch.no_grad():
        latents = model._encode_latents(audio).transpose(1, 2)
    embed = model.quantizer.layers[2].codebook.embed
    assert torch.equal(span[:, 0], torch.cdist(latents, embed).argmin(-1))
    codes = model.encode(audio).audio_codes
    assert torch.equal(model.encode(audio, first_quantizer=0).audio_codes, codes)
    assert not torch.equal(codes[:, 2:], span)
    assert torch.equal(model.encode(audio, num_quantizers=1, first_quantizer=2).audio_codes, span[:, :1])


@pytest.mark.parametrize("name", NAMES)
def test_spans_keep_the_codec_contract(name):
    """Padding, length and tiles: as without `first_quantizer`."""
    model, audio = TINY[name].model(), noise(2, 1, 9000)
    mask = (torch.arange(9000) < torch.tensor([9000, 5001])[:, None]).long()
    with torch.no_grad():
        codes = model.encode(audio, mask, first_quantizer=1)
        decoded = model.decode(**codes, padding_mask=mask, first_quantizer=1).audio_values
        alone = model.encode(audio[1:, :, :5001], first_quantizer=1).audio_codes
        assert torch.equal(codes.audio_codes[1:, :, : alone.shape[-1]], alone)
        audio_alone = model.decode(alone, first_quantizer=1).audio_values[..., :5001]
        torch.testing.assert_close(decoded[1:, :, :5001], audio_alone, atol=2e-5, rtol=1e-4)
        assert decoded.shape == audio.shape and not decoded[1, :, 5001:].any()
        model.whole_seconds, model.tile_seconds = 0, 0.1
        assert torch.equal(model.encode(audio, mask, first_quantizer=1).audio_codes, codes.audio_codes)
        tiled = model.decode(**codes, padding_mask=mask, first_quantizer=1).audio_values
        torch.testing.assert_close(tiled, decoded, atol=2e-5, rtol=1e-4)


def test_spans_that_do_not_exist():
    model, audio = TINY["speechtokenizer"].model(), noise(1, 1, 1000)
    codes = model.encode(audio).audio_codes
    for first in (4, -1):
        with pytest.raises(ValueError, match=f"first_quantizer={first}, but this model has quantizers 0 to 3"):
            model.encode(audio, first_quantizer=first)
    with pytest.raises(ValueError, match="end at 5, but this model has 4; use at most 2"):
        model.encode(audio, num_quantizers=3, first_quantizer=2)
    with pytest.raises(ValueError, match="end at 5, but this model has 4; use at most 3"):
        model.decode(codes, first_quantizer=1)
    with pytest.raises(ValueError, match="must have shape"):
        model.decode(codes[0], first_quantizer=1)


@pytest.mark.parametrize("name", NAMES)
def test_features_say_what_the_first_codebook_says(name):
    model, audio = TINY[name].model(), noise(2, 1, 3000)
    codes = model.encode(audio).audio_codes
    features = model.semantic_features(codes)
    assert features.shape == (2, 10, model.config.semantic_hidden_size)
    assert torch.equal(model.semantic_features(codes[:, :1]), features)
    entries = model.quantizer.layers[0].codebook.embed[codes[:, 0]]
    torch.testing.assert_close(features, model.semantic_projection(entries))
    torch.testing.assert_close(model(audio).semantic_features, features)
    torch.testing.assert_close(model(audio, return_dict=False)[-1], features)


def test_in_training_features_reach_the_encoder_and_the_projection():
    model = TINY["speechtokenizer"].model().train()
    model(noise(1, 1, 3000)).semantic_features.square().sum().backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert "semantic_projection.weight" in reached
    assert any(name.startswith("encoder.") for name in reached)
    assert not any(name.startswith("decoder.") for name in reached)


def test_unfit_configurations():
    with pytest.raises(StrictDataclassError, match="activation must be one of .*'relu'"):
        codec_lm_hf.SpeechTokenizerConfig(activation="relu")
    with pytest.raises(StrictDataclassError, match="bidirectional_lstm needs LSTM layers"):
        codec_lm_hf.SpeechTokenizerConfig(num_lstm_layers=0)


def original_state(model):
    """The state that the original would have saved of this model: our names turned back."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace(".layers.", ".model.", 1) if not key.startswith("quantizer") else f"quantizer.vq{key[9:]}"
        key = key.replace(".codebook.", "._codebook.").replace("semantic_projection", "transform")
        wrapper = "convtr" if key.startswith("decoder") and _is_transposed(model, key) else "conv"
        for ours, theirs in {
            ".conv.parametrizations.weight.original0": f".{wrapper}.{wrapper}.weight_g",
            ".conv.parametrizations.weight.original1": f".{wrapper}.{wrapper}.weight_v",
            ".conv.bias": f".{wrapper}.{wrapper}.bias",
        }.items():
            key = key.replace(ours, theirs)
        state[key] = value
    return state


def _is_transposed(model, key):
    layer = model.decoder.layers[int(key.split(".")[2])]
    return type(layer).__name__ == "ConvTranspose1d"


def test_checkpoints_of_the_trainer_hold_the_codec_as_their_generator(tmp_path):
    model = TINY["speechtokenizer"].model()
    state = original_state(model)
    torch.save(state, tmp_path / "SpeechTokenizer.pt")
    package = {"generator": state, "discriminators": {"mpd": {}}, "scheduler_g": {"last_epoch": 3}}
    torch.save(package, tmp_path / "SpeechTokenizerTrainer_00000003")
    audio = noise(1, 1, 2000)
    for file in ("SpeechTokenizer.pt", "SpeechTokenizerTrainer_00000003"):
        out = codec_lm_hf.convert("speechtokenizer", tmp_path / file, tmp_path / f"{file}-out", config=ORIGINAL)
        loaded = AutoModel.from_pretrained(out).eval()
        assert torch.equal(loaded.encode(audio).audio_codes, model.encode(audio).audio_codes)


def test_the_originals_configuration_says_more_than_the_model_and_must_say_that(tmp_path):
    config = speechtokenizer.config_from_original({**ORIGINAL, "batch_size": 6, "mel_loss_lambdas": [45, 1, 1, 1]})
    assert (config.hidden_size, config.activation, config.num_codebooks) == (16, "elu", 4)
    assert speechtokenizer.config_from_original({**ORIGINAL, "activation": "Snake"}).activation == "snake"
    with pytest.raises(ConversionError, match="activation='GELU' is not supported"):
        speechtokenizer.config_from_original({**ORIGINAL, "activation": "GELU"})
    with pytest.raises(ConversionError, match=r"lacks \['n_q', 'strides'\]"):
        speechtokenizer.config_from_original({k: v for k, v in ORIGINAL.items() if k not in ("n_q", "strides")})

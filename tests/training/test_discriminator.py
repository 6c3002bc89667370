"""Discriminators as models; `tests/parity` compares their logits and feature maps with the originals'."""

from __future__ import annotations

import pickle

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

import codec_lm_hf
from codec_lm_hf.configuration.discriminators import CodecDiscriminatorConfig, stft_parts
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER
from codec_lm_hf.conversion_scripts.engine import ConversionError
from codec_lm_hf.modeling.discriminators import CodecDiscriminator
from tests.common.weights import assert_holds
from tests.parity.harness import Case, find_cases
from tests.training.helpers import discriminator

CASES = [folder for folder in find_cases() if (folder / "msstftd.th").is_file()]


def test_there_is_a_case():
    assert CASES


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_the_public_converter_gives_a_checkpoint_with_the_logits_of_the_original(folder, tmp_path):
    case = Case(folder)
    config = case.meta["discriminator_config"]
    output = codec_lm_hf.convert("discriminator", folder / "msstftd.th", tmp_path / "ours", config=config)
    model = CodecDiscriminator.from_pretrained(output)
    with torch.no_grad():
        logits = model(case.input("disc.input")).logits
    assert len(logits) == len(case.names("disc.logits."))
    for scale, found in enumerate(logits):
        case.same(f"disc.logits.{scale}", found, atol=1e-6, rtol=1e-3)


def test_arguments_of_the_originals_constructor():
    options = {"filters": 2, "n_ffts": [64], "norm": "spectral_norm", "activation": "LeakyReLU", "max_filters": 512}
    slope = {"activation_params": {"negative_slope": 0.3}}
    config = CONVERTER.config_from_original({**options, **slope})
    assert config.options(0)["negative_slope"] == 0.3 and config.options(0)["norm_type"] == "spectral_norm"
    with pytest.raises(ConversionError, match="out_channels=2 is not supported"):
        CONVERTER.config_from_original({**options, "out_channels": 2})
    # The first convolution has no norm, whatever the others have.
    state = {f"discriminators.0.convs.0.conv.{name}": None for name in ("weight", "bias")}
    ours = {f"discriminators.0.convs.0.{name}" for name in ("weight", "bias")}
    assert set(CONVERTER.rename(state, config)) == ours <= set(CodecDiscriminator(config).state_dict())


def test_windows_survive_loading_over_dirty_memory(tmp_path):
    """They are not in the checkpoint, and from_pretrained builds the model on the meta device."""
    model = discriminator()
    model.save_pretrained(tmp_path)
    for _ in range(3):
        dirty = [torch.full((size,), torch.nan) for size in (128, 256, 1000) for _ in range(50)]
        del dirty
        loaded = CodecDiscriminator.from_pretrained(tmp_path)
        for ours, theirs in zip(loaded.discriminators, model.discriminators, strict=True):
            assert torch.equal(ours.hann.window, theirs.hann.window)
    audio = torch.randn(2, 1, 1000)
    for ours, theirs in zip(loaded(audio).logits, model(audio).logits, strict=True):
        assert torch.equal(ours, theirs)


def test_five_feature_maps_and_logits_per_scale():
    output = CodecDiscriminator(CodecDiscriminatorConfig(parts=stft_parts(filters=2)))(torch.randn(2, 1, 4000))
    assert len(output.logits) == len(output.feature_maps) == 3
    assert all(len(maps) == 5 for maps in output.feature_maps)
    assert all(logits.shape[:2] == (2, 1) for logits in output.logits)


def test_a_crop_shorter_than_the_window_is_refused():
    with pytest.raises(ValueError, match="at least 256 samples, got 200"):
        discriminator()(torch.randn(1, 1, 200))


NARROW = {
    "period": {"kind": "period", "period": 3, "channels": (4, 6), "strides": (3, 1)},
    "scale": {
        "kind": "scale",
        "num_poolings": 1,
        "channels": (4, 8, 8),
        "kernel_sizes": (15, 41, 5),
        "strides": (1, 4, 1),
        "groups": (1, 4, 1),
        "norm_type": "spectral_norm",
    },
    "decimated": {
        "kind": "scale",
        "decimation": 2,
        "channels": (4,),
        "kernel_sizes": (15,),
        "strides": (1,),
        "groups": (1,),
    },
    "resampled": {
        "kind": "scale",
        "decimation": (9, 2),
        "channels": (4,),
        "kernel_sizes": (15,),
        "strides": (1,),
        "groups": (1,),
    },
    "stft": {**stft_parts((128,))[0], "filters": 4},
    "bands": {"kind": "bands", "n_fft": 128, "filters": 4},
    "magnitude": {"kind": "magnitude", "n_fft": 128, "hop_length": 32, "win_length": 100, "filters": 4},
    "wave": {"kind": "wave", "pooling": 2, "channels": 4, "num_layers": 2},
    "complex_stft": {
        "kind": "complex_stft",
        "n_fft": 128,
        "hop_length": 32,
        "win_length": 100,
        "filters": 2,
        "multipliers": (1, 2),
        "strides": ((1, 2), (2, 2)),
    },
}


@pytest.mark.parametrize("part", NARROW)
def test_a_pickle_is_the_same_discriminator(part):
    """Weight norm and spectral norm as well, which torch lets nobody pickle."""
    model = CodecDiscriminator(CodecDiscriminatorConfig(parts=[NARROW[part]])).eval()
    audio = torch.randn(1, 1, 2000)
    again = pickle.loads(pickle.dumps(model))
    assert_holds(again, model)
    assert torch.equal(again(audio).logits[0], model(audio).logits[0])


def test_descripts_lower_rates_are_whole_numbers_of_hz():
    config = CONVERTER.config_from_original({"sample_rate": 44_100, "rates": [4, 8], "periods": [2], "ffts": []})
    assert [part["decimation"] for part in config.parts if part["kind"] == "scale"] == [4, [44_100, 5512]]


def narrow(name: str) -> CodecDiscriminator:
    torch.manual_seed(0)
    return CodecDiscriminator(CodecDiscriminatorConfig(parts=[NARROW[name]]))


@pytest.mark.parametrize("name", NARROW)
def test_every_kind_survives_saving_and_gives_gradient(name, tmp_path):
    model = narrow(name).eval()
    audio = torch.randn(2, 1, 1000, requires_grad=True)
    output = model(audio)
    output.logits[0].sum().backward()
    assert audio.grad.abs().sum() > 0
    assert len(output.feature_maps[0]) >= 1
    model.save_pretrained(tmp_path)
    again = CodecDiscriminator.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)
    # Logits of random weights are large sums: last bits of the largest are many of the smallest.
    close = {"atol": 1e-5 * float(output.logits[0].detach().abs().max()), "rtol": 0}
    torch.testing.assert_close(again(audio).logits[0], output.logits[0], **close)


def test_magnitudes_of_silence_are_zero():
    """No floor below them, as AudioDec's has none: its padding alone is silence, and a bias makes scores of it."""
    (part,) = narrow("magnitude").discriminators
    silence = torch.zeros(1, 1, 1000, requires_grad=True)
    spectrum = part._spectrum(silence)
    assert not spectrum.any()
    spectrum.sum().backward()
    assert silence.grad.isfinite().all()


def test_spectral_norm_brings_the_largest_singular_value_to_one():
    model = narrow("scale").train()
    for _ in range(50):
        model(torch.randn(1, 1, 1000))
    for conv in (*model.discriminators[0].convs, model.discriminators[0].conv_post):
        assert float(torch.linalg.matrix_norm(conv.weight.detach().flatten(1), 2)) == pytest.approx(1.0, abs=0.02)


def test_levelled_input_is_judged_whatever_its_level():
    model = CodecDiscriminator(CodecDiscriminatorConfig(parts=[NARROW["bands"]], level_input=True))
    audio = torch.randn(1, 1, 1000)
    torch.testing.assert_close(model(audio).logits[0], model(0.1 * audio + 0.2).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"kind": "wavelet"}, "kind must be one of period, scale, stft, bands, magnitude, wave, .*got 'wavelet'"),
        ({"kind": "period", "periods": 3}, "has no 'periods'; it has: period, channels"),
        ({"kind": "period"}, "needs 'period'"),
        ({**NARROW["period"], "norm_type": "batch"}, "norm_type must be one of .*got 'batch'"),
    ],
)
def test_a_wrong_part_is_named(part, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        CodecDiscriminatorConfig(parts=[part])


def test_scales_need_all_three_figures():
    with pytest.raises(ValueError, match="one entry per scale"):
        stft_parts((256, 128), hop_lengths=(64,))


@pytest.mark.parametrize("name", CodecDiscriminatorConfig.presets)
def test_presets_are_built(name):
    with torch.device("meta"):
        CodecDiscriminator(CodecDiscriminatorConfig.from_preset(name))


def test_it_learns_to_tell_noise_from_tones():
    model = discriminator().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    time = torch.arange(2000) / 16000
    for _ in range(60):
        real = torch.sin(2 * torch.pi * (200 + 500 * torch.rand(4, 1, 1)) * time)
        fake = torch.randn(4, 1, 2000)
        output = model(torch.cat([real, fake]))
        halves = [logits.chunk(2) for logits in output.logits]
        loss = sum((1 - r).relu().mean() + (1 + f).relu().mean() for r, f in halves)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(r.mean() > 0 > f.mean() for r, f in halves)

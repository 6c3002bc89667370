"""Spectrograms against torch's own, written out as the papers' code has them, and against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from codec_lm_hf.modeling.layers.stft import mel_filters
from codec_lm_hf.training.spectrograms import PADDINGS, MelSpectrogram, Spectrogram

RATE = 16000


def stft(audio, n_fft, hop, **options):
    window = torch.hann_window(options.pop("win_length", n_fft))
    return torch.stft(audio, n_fft, hop, window.numel(), window, return_complex=True, **options)


@pytest.fixture
def audio():
    return 0.1 * torch.randn(2, 1, 1003)


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_centred_windows_are_torchs(padding, mode, audio):
    expected = stft(audio[:, 0], 256, 60, win_length=150, center=True, pad_mode=mode)
    ours = Spectrogram(150, 60, 256, padding).spectrum(audio)[:, 0]
    torch.testing.assert_close(ours, expected)


def test_whole_hops_are_those_of_hifi_gan(audio):
    padded = F.pad(audio[:, 0], (98, 98), mode="reflect")
    expected = stft(padded, 256, 60, win_length=200, center=False)
    torch.testing.assert_close(Spectrogram(200, 60, 256, "whole_hops").spectrum(audio)[:, 0], expected)


def test_begun_hops_are_those_of_match_stride(audio):
    """DAC's code pads twice and drops four frames."""
    right = -audio.shape[-1] % 64
    padded = F.pad(audio[:, 0], (96, 96 + right), mode="reflect")
    expected = stft(padded, 256, 64, center=True, pad_mode="reflect")[..., 2:-2]
    torch.testing.assert_close(Spectrogram(256, padding="begun_hops").spectrum(audio)[:, 0], expected)


@pytest.mark.parametrize("samples", [640, 641, 703, 704])
def test_numbers_of_frames(samples):
    counts = {padding: Spectrogram(256, padding=padding)(torch.ones(1, 1, samples)).shape[-1] for padding in PADDINGS}
    centred = samples // 64 + 1
    assert counts == {
        "zeros": centred,
        "reflect": centred,
        "whole_hops": samples // 64,
        "begun_hops": math.ceil(samples / 64),
    }


def test_channels_stay_apart():
    audio = torch.randn(3, 2, 600)
    whole = MelSpectrogram(RATE, 128, 20)(audio)
    assert whole.shape == (3, 2, 20, 600 // 32 + 1)
    torch.testing.assert_close(whole[1:2, 1:2], MelSpectrogram(RATE, 128, 20)(audio[1:2, 1:2]))


def test_powers_and_floors(audio):
    magnitudes = Spectrogram(256, power_floor=1e-12)(audio)
    torch.testing.assert_close(Spectrogram(256, power=2, power_floor=1e-12)(audio), magnitudes.square())
    silence = torch.zeros(1, 1, 512)
    assert (Spectrogram(256, power_floor=1e-6)(silence) == 1e-3).all()
    added = Spectrogram(256, power_floor=1e-2, add_power_floor=True)(audio)
    torch.testing.assert_close(added, (magnitudes.square() + 1e-2).sqrt())


def test_logarithms_and_their_floor():
    values = torch.tensor([1e-6, 1e-2, 10.0])
    spectrogram = Spectrogram(256, log_floor=1e-4)
    torch.testing.assert_close(spectrogram.log(values), torch.tensor([-4.0, -2.0, 1.0]))
    natural = Spectrogram(256, natural_log=True)
    torch.testing.assert_close(natural.log(values), values.log())


def test_mel_filters_of_either_norm():
    """Unit peaks, or unit areas in Hz; the same triangles."""
    peaks, areas = (mel_filters(RATE, 2048, 40, mel_norm=norm) for norm in (None, "slaney"))
    # The finest triangles have their peaks between bins.
    torch.testing.assert_close(peaks[20:].amax(1), torch.ones(20), atol=0.07, rtol=0)
    torch.testing.assert_close(areas.sum(1) * RATE / 2048, torch.ones(40), atol=0.02, rtol=0)
    torch.testing.assert_close(areas / areas.amax(1, keepdim=True), peaks / peaks.amax(1, keepdim=True))


def htk(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)


def slaney(frequency: float) -> float:
    """Linear below 1 kHz, logarithmic above."""
    return 3 * frequency / 200 if frequency < 1000 else 15 + 27 * math.log(frequency / 1000) / math.log(6.4)


@pytest.mark.parametrize("scale", [htk, slaney])
def test_mel_filters_are_evenly_spaced_on_their_scale(scale):
    low, high, count = 100.0, 7000.0, 30
    filters = mel_filters(RATE, 8192, count, low, high, mel_scale=scale.__name__)
    for index, peak in enumerate(filters.argmax(1).tolist()):
        expected = scale(low) + (index + 1) * (scale(high) - scale(low)) / (count + 1)
        # A bin is 2 Hz wide.
        assert abs(scale(peak * RATE / 8192) - expected) < scale(peak * RATE / 8192 + 2) - scale(peak * RATE / 8192)
    frequencies = torch.arange(4097) * RATE / 8192
    outside = (frequencies < low) | (frequencies > high)
    assert (filters[:, outside] == 0).all()


def test_mel_filters_at_odd_rates_have_the_bins_of_their_library():
    """librosa's are where the FFT has them; torchaudio's as if the rate were even."""
    twice = mel_filters(22_050, 1024, 40, max_frequency=5512.5, mel_scale="slaney")
    torch.testing.assert_close(mel_filters(11_025, 512, 40, mel_scale="slaney"), twice[:, :257])
    torch.testing.assert_close(mel_filters(11_025, 512, 40), mel_filters(11_024, 512, 40))


@pytest.mark.parametrize("padding", PADDINGS)
def test_audio_too_short_for_its_padding_is_refused(padding):
    spectrogram = Spectrogram(256, padding=padding)
    needed = {"zeros": 1, "reflect": 129, "whole_hops": 97, "begun_hops": 113}[padding]
    assert spectrogram(torch.ones(1, 1, needed)).shape[-1] > 0
    with pytest.raises(ValueError, match=f"at least {needed} samples, got {needed - 1}"):
        spectrogram(torch.ones(1, 1, needed - 1))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_fft": 128}, "at most n_fft 128, got 256"),
        ({"hop_length": 0}, "hop_length must be positive"),
        ({"hop_length": 300}, "at most window_size 256, got 300"),
        ({"padding": "mirror"}, "mirror"),
        ({"power": 3}, "got 3"),
        ({"power_floor": 0.0}, "floors must be positive"),
        ({"log_floor": -1.0}, "floors must be positive"),
    ],
)
def test_impossible_arguments_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        Spectrogram(256, **options)

"""The loss after PESQ says of speech what PESQ says, forgives what it forgives, and takes any rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from scipy.stats import spearmanr

import codec_lm_hf
from codec_lm_hf.evaluation.metrics import pesq_wb
from codec_lm_hf.modeling.auto import AutoCodecModel
from codec_lm_hf.training.perceptual import PerceptualDisturbance

SPEECH = Path(codec_lm_hf.__file__).parent / "demo" / "speech.flac"


@pytest.fixture(scope="module")
def speech():
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    assert rate == 16000
    return torch.from_numpy(audio)[None, None, : 3 * rate]


def with_noise(audio, decibels):
    noise = torch.randn_like(audio)
    return audio + noise * audio.norm() / noise.norm() * 10 ** (-decibels / 20)


@torch.no_grad()
def test_it_ranks_degraded_speech_as_pesq_does(speech):
    codec = AutoCodecModel.from_pretrained(codec_lm_hf.bundled("codec"))
    versions = [
        codec.decode(codec.encode(speech, num_quantizers=count).audio_codes).audio_values[..., : speech.shape[-1]]
        for count in (1, 2, 3, 4, 6, 8)
    ]
    versions += [with_noise(speech, decibels) for decibels in (0, 10, 20, 30, 40)]
    versions.append(torch.nn.functional.avg_pool1d(speech, 5, 1, 2))
    loss = PerceptualDisturbance(16000)
    losses = [float(loss(audio, speech)) for audio in versions]
    opinions = [pesq_wb(audio[0, 0].numpy(), speech[0, 0].numpy(), 16000) for audio in versions]
    assert spearmanr(losses, opinions).statistic < -0.9


def test_it_forgives_a_gain_and_not_as_much_noise(speech):
    loss = PerceptualDisturbance(16000)
    assert loss(0.8 * speech, speech) < 0.1 * loss(with_noise(speech, 14), speech)  # both are 20 % off


def test_it_does_not_depend_on_the_level_of_both(speech):
    loss, noisy = PerceptualDisturbance(16000), with_noise(speech, 20)
    torch.testing.assert_close(loss(noisy / 10, speech / 10), loss(noisy, speech), rtol=1e-3, atol=0)


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000, 96000])
def test_any_rate_has_bands_up_to_its_half(rate):
    loss = PerceptualDisturbance(rate)
    bins = loss.bands.sum(0)
    assert bins[0] == 0 and (bins[1:] == 1).all()
    assert torch.isfinite(loss.thresholds).all()
    audio = torch.randn(2, 1, rate // 100, requires_grad=True)  # less than a window
    worse = loss(audio, torch.randn_like(audio))
    assert loss(audio, audio) == 0 < worse
    assert torch.isfinite(torch.autograd.grad(worse, audio)[0]).all()

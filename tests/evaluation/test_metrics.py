"""The metrics, on signals whose scores are known."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import codec_lm_hf
from codec_lm_hf.evaluation.metrics import evaluate_pair, log_mel_distance, pesq_wb, si_sdr, stoi

SPEECH = Path(codec_lm_hf.__file__).parent / "demo" / "speech.flac"


@pytest.fixture(scope="module")
def speech():
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    assert rate == 16000
    return audio[: 3 * rate]


@pytest.fixture
def noise(speech):
    return np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers():
    time = np.arange(16000) / 16000
    target, noise = np.sin(2 * np.pi * 100 * time), np.sin(2 * np.pi * 300 * time)
    for decibel in (-10, 0, 25):
        assert si_sdr(target + 10 ** (-decibel / 20) * noise, target) == pytest.approx(decibel, abs=1e-3)
    # Neither scale nor a constant offset counts.
    assert si_sdr(0.1 * (target + noise) + 0.5, target) == pytest.approx(0, abs=1e-3)


def test_log_mel_distance_of_a_quieter_copy_is_its_decibels(speech):
    assert log_mel_distance(speech, speech, 16000) == 0
    loud = speech + 0.1 * np.sin(np.arange(len(speech)))
    noisy = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    assert log_mel_distance(0.5 * noisy, noisy, 16000) == pytest.approx(6.02, abs=0.01)
    assert log_mel_distance(loud.astype(np.float32), speech, 16000) > 0


def test_scores_of_the_original_are_the_best_and_noise_lowers_all(speech, noise):
    level = float(np.std(speech))
    scores = [evaluate_pair((speech + factor * level * noise)[None], speech[None], 16000) for factor in (0, 0.05, 0.5)]
    for better, worse in zip(scores, scores[1:], strict=False):
        assert better["log_mel_distance"] < worse["log_mel_distance"]
        for name in ("si_sdr", "pesq_wb", "stoi"):
            assert better[name] > worse[name]
    assert scores[0]["pesq_wb"] == pytest.approx(4.64, abs=0.01)
    assert scores[0]["stoi"] == pytest.approx(1, abs=1e-4)


def test_pesq_of_another_rate_is_computed_at_16_khz(speech):
    import soxr

    noisy = speech + 0.02 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    doubled = [soxr.resample(signal, 16000, 32000) for signal in (noisy, speech)]
    assert pesq_wb(*doubled, 32000) == pytest.approx(pesq_wb(noisy, speech, 16000), abs=0.02)


def test_channels_are_averaged(speech, noise):
    stereo = np.stack([speech + noise, speech - noise])
    scores = evaluate_pair(stereo, np.stack([speech, speech]), 16000)
    assert scores["log_mel_distance"] < 1e-3


@pytest.mark.parametrize("samples", [1600, 48000])
def test_what_cannot_be_measured_is_nan_and_not_an_error(samples):
    """A codec at the start of its training decodes to silence; that must not end the training."""
    tone = (0.1 * np.sin(np.arange(samples) / 5)).astype(np.float32)
    silence = np.zeros(samples, np.float32)
    for audio, target in ((silence, tone), (tone, silence), (silence, silence)):
        scores = evaluate_pair(audio[None], target[None], 16000)
        assert all(math.isfinite(scores[name]) for name in ("si_sdr", "log_mel_distance"))
    if samples == 1600:
        assert math.isnan(pesq_wb(tone, tone, 16000)) and math.isnan(stoi(tone, tone, 16000))


@pytest.mark.parametrize(("metric", "package"), [(pesq_wb, "pesq"), (stoi, "pystoi")])
def test_a_missing_package_is_named_with_the_extra(metric, package, speech, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}: pip install 'codec-lm-hf\[metrics\]'"):
        metric(speech, speech, 16000)


@pytest.mark.parametrize("metric", [si_sdr, log_mel_distance, pesq_wb, stoi])
@pytest.mark.parametrize("wrong", [np.s_[None], np.s_[:-1]])
def test_channels_and_other_lengths_are_refused(metric, wrong, speech):
    rate = () if metric is si_sdr else (16000,)
    with pytest.raises(ValueError, match=r"one recording \(samples,\).* evaluate_pair takes channels"):
        metric(speech[wrong], speech, *rate)

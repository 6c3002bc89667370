"""How close decoded audio is to the original. Plain functions over arrays of one recording, `(samples,)`."""

from __future__ import annotations

import importlib
import importlib.util
import warnings

import numpy as np
import torch

from ..modeling.layers.stft import mel_filters


def _check(audio: np.ndarray, target: np.ndarray) -> None:
    if audio.ndim != 1 or audio.shape != target.shape:
        raise ValueError(
            "metrics compare one recording (samples,) with another as long, got shapes "
            f"{audio.shape} and {target.shape}; evaluate_pair takes channels."
        )


def si_sdr(audio: np.ndarray, target: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2019)."""
    _check(audio, target)
    audio, target = audio - audio.mean(), target - target.mean()
    projection = np.dot(audio, target) / max(np.dot(target, target), 1e-12) * target
    noise = audio - projection
    return float(10 * np.log10(max(np.dot(projection, projection), 1e-12) / max(np.dot(noise, noise), 1e-12)))


def log_mel_distance(audio: np.ndarray, target: np.ndarray, sampling_rate: int) -> float:
    """Mean absolute difference in dB of 80-band mel spectra, window 64 ms, hop 16 ms."""
    _check(audio, target)
    size = 2 ** round(np.log2(0.064 * sampling_rate))
    filters = mel_filters(sampling_rate, size, 80)
    window = torch.hann_window(size)
    levels = []
    for signal in (audio, target):
        wave = torch.from_numpy(np.ascontiguousarray(signal, dtype=np.float32))
        spectrum = torch.stft(wave, size, size // 4, window=window, return_complex=True, pad_mode="constant").abs()
        levels.append(20 * (filters @ spectrum).clamp(min=1e-5).log10())
    return float((levels[0] - levels[1]).abs().mean())


def available() -> bool:
    """Whether PESQ and STOI can be computed: the `metrics` extra is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("pesq", "pystoi"))


def _need(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this metric needs {name}: pip install 'codec-lm-hf[metrics]'.") from error


def pesq_wb(audio: np.ndarray, target: np.ndarray, sampling_rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2), 1.0 to 4.6; computed at 16 kHz. NaN for less than 0.25 s or without speech.

    Raises:
        ImportError: the `metrics` extra is not installed.
    """
    _check(audio, target)
    pesq = _need("pesq")
    audio, target = (_at(signal, sampling_rate, 16000) for signal in (audio, target))
    try:
        return float(pesq.pesq(16000, target, audio, "wb"))
    # The last one is how the package fails on silence.
    except (pesq.NoUtterancesError, pesq.BufferTooShortError, ValueError):
        return float("nan")


def stoi(audio: np.ndarray, target: np.ndarray, sampling_rate: int) -> float:
    """Short-time objective intelligibility (Taal et al., 2011), about 0 to 1. NaN for less than 0.4 s of speech.

    Raises:
        ImportError: the `metrics` extra is not installed.
    """
    _check(audio, target)
    pystoi = _need("pystoi")
    with warnings.catch_warnings():
        # For what is too short to measure the package warns and returns a tiny number.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(pystoi.stoi(target, audio, sampling_rate))
        except RuntimeWarning:
            return float("nan")


def _at(signal: np.ndarray, rate: int, target: int) -> np.ndarray:
    if rate == target:
        return signal
    import soxr

    return soxr.resample(signal, rate, target)


def evaluate_pair(audio: np.ndarray, target: np.ndarray, sampling_rate: int) -> dict[str, float]:
    """All metrics that can be computed here, for one recording `(channels, samples)`; channels are averaged."""
    audio, target = np.asarray(audio).mean(0), np.asarray(target).mean(0)
    scores = {"si_sdr": si_sdr(audio, target), "log_mel_distance": log_mel_distance(audio, target, sampling_rate)}
    if available():
        scores |= {"pesq_wb": pesq_wb(audio, target, sampling_rate), "stoi": stoi(audio, target, sampling_rate)}
    return scores

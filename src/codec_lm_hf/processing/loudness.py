"""Loudness as broadcasters measure it: ITU-R BS.1770."""

from __future__ import annotations

import math

import numpy as np

# What silence is said to have, and the least loudness of a block that counts.
QUIETEST = -70.0

_BLOCK_SECONDS = 0.4
_SHORTEST_SECONDS = 0.5
_OVERLAP = 0.75
_OFFSET = -0.691
_BELOW_MEAN = 10.0
# Left, right, centre, and the two surround channels.
_CHANNEL_GAINS = np.array([1.0, 1.0, 1.0, 1.41, 1.41])
# Of what is filtered at once. The filters forget a second that has passed: what is left of it is beyond float64.
_PIECE_SECONDS = 30
_MEMORY_SECONDS = 1


def integrated_loudness(audio: np.ndarray, sampling_rate: int) -> float:
    """Loudness of a whole recording.

    Args:
        audio: `(channels, samples)`, one to five channels. What is shorter than half a second is taken to go on in
            silence until then.
        sampling_rate: Hz.

    Returns:
        LUFS (decibels below full scale, as heard), at least -70.

    Source: ITU-R BS.1770-4, with the K-weighting by the filter formulas of pyloudnorm (R. Bristow-Johnson's), and the
    last, incomplete block filled up with silence, as `Meter` in `audiotools/core/loudness.py` does both.
    """
    samples = audio.shape[1]
    missing = int(_SHORTEST_SECONDS * sampling_rate) - samples
    power = _weighted(np.pad(audio, ((0, 0), (0, max(0, missing)))), sampling_rate) ** 2
    block = int(_BLOCK_SECONDS * sampling_rate)
    step = int(block * (1 - _OVERLAP))
    count = 1 + -(-max(0, power.shape[1] - block) // step)
    total = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
    starts = np.arange(count) * step
    ends = np.minimum(starts + block, power.shape[1])
    energy = (total[:, ends] - total[:, starts]) / (_BLOCK_SECONDS * sampling_rate)
    heard = energy[:, _loudness(energy) > QUIETEST]
    if heard.shape[1] == 0:
        return QUIETEST
    threshold = _loudness(heard.mean(1, keepdims=True)) - _BELOW_MEAN
    loud = heard[:, _loudness(heard) > threshold]
    return max(QUIETEST, float(_loudness(loud.mean(1, keepdims=True))[0]))


def _loudness(energy: np.ndarray) -> np.ndarray:
    """LUFS of the mean squares `(channels, blocks)` of each block."""
    total = _CHANNEL_GAINS[: len(energy)] @ energy
    return _OFFSET + 10 * np.log10(np.maximum(total, 1e-30))


def _weighted(audio: np.ndarray, rate: int) -> np.ndarray:
    """`audio` as the ear weighs it, float64: by the filters' frequency response, piece by piece."""
    memory, step = _MEMORY_SECONDS * rate, _PIECE_SECONDS * rate
    weighted = np.empty(audio.shape)
    for start in range(0, audio.shape[1], step):
        lead = min(start, memory)
        piece = audio[:, start - lead : start + step].astype(np.float64)
        # Long enough that what the filters still ring with at its end does not come around to its start.
        size = 1 << (piece.shape[1] + memory - 1).bit_length()
        spectrum = np.fft.rfft(piece, size) * _response(rate, size)
        weighted[:, start : start + step] = np.fft.irfft(spectrum, size)[:, lead : piece.shape[1]]
    return weighted


def _response(rate: int, size: int) -> np.ndarray:
    """Frequency response of the K-weighting at the bins of an FFT of `size`."""
    delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.ones_like(delay)
    for numerator, denominator in (_high_shelf(rate), _high_pass(rate)):
        response *= np.polyval(numerator[::-1], delay) / np.polyval(denominator[::-1], delay)
    return response


def _high_shelf(rate: int, gain_db: float = 4.0, q: float = 1 / math.sqrt(2), frequency: float = 1500.0):
    """What a head does to sound: numerator and denominator of the filter."""
    gain = 10 ** (gain_db / 40)
    angle = 2 * math.pi * frequency / rate
    cosine, alpha = math.cos(angle), math.sin(angle) / (2 * q)
    plus, minus, slope = gain + 1, gain - 1, 2 * math.sqrt(gain) * alpha
    numerator = (
        gain * (plus + minus * cosine + slope),
        -2 * gain * (minus + plus * cosine),
        gain * (plus + minus * cosine - slope),
    )
    denominator = (plus - minus * cosine + slope, 2 * (minus - plus * cosine), plus - minus * cosine - slope)
    return numerator, denominator


def _high_pass(rate: int, q: float = 0.5, frequency: float = 38.0):
    """What the ear makes of low frequencies: numerator and denominator of the filter."""
    angle = 2 * math.pi * frequency / rate
    cosine, alpha = math.cos(angle), math.sin(angle) / (2 * q)
    return ((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2), (1 + alpha, -2 * cosine, 1 - alpha)

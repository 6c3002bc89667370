"""Loudness against what ITU-R BS.1770 and EBU Tech 3341 state for test signals."""

from __future__ import annotations

import numpy as np
import pytest

from codec_lm_hf.processing.loudness import QUIETEST, integrated_loudness

RATE = 48000


def sine(level_db: float, seconds: float = 4.0, frequency: float = 997.0, rate: int = RATE) -> np.ndarray:
    return 10 ** (level_db / 20) * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)[None]


def test_a_sine_of_full_scale_in_one_channel():
    """BS.1770-4, annex 1: 997 Hz at 0 dBFS in one channel reads -3.01."""
    assert integrated_loudness(sine(0), RATE) == pytest.approx(-3.01, abs=0.1)


@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_stereo_sines(level):
    """EBU Tech 3341, cases 1 and 2: 1000 Hz at -23 (-33) dBFS in both channels reads -23 (-33) LUFS."""
    stereo = np.repeat(sine(level, frequency=1000.0), 2, axis=0)
    assert integrated_loudness(stereo, RATE) == pytest.approx(level, abs=0.1)


def test_quiet_parts_do_not_count():
    """EBU Tech 3341, case 3: -36, -23, -36 dBFS for 10, 60, 10 s read -23."""
    parts = [sine(level, seconds, 1000.0) for level, seconds in ((-36, 10), (-23, 60), (-36, 10))]
    assert integrated_loudness(np.repeat(np.concatenate(parts, axis=1), 2, axis=0), RATE) == pytest.approx(
        -23, abs=0.1
    )


def test_low_frequencies_are_heard_less():
    assert integrated_loudness(sine(-20, frequency=30.0), RATE) < integrated_loudness(sine(-20), RATE) - 6


@pytest.mark.parametrize("samples", [1, 1000, RATE])
def test_silence_and_snippets(samples):
    assert integrated_loudness(np.zeros((1, samples)), RATE) == QUIETEST
    assert QUIETEST <= integrated_loudness(0.5 * np.ones((1, samples)), RATE) < 0


def test_filtering_in_pieces_leaves_no_seam(monkeypatch):
    from codec_lm_hf.processing import loudness

    audio = np.random.default_rng(0).standard_normal((2, 70 * 8000)) * 0.1
    expected = loudness._weighted(audio, 8000)
    monkeypatch.setattr(loudness, "_PIECE_SECONDS", 7)
    np.testing.assert_allclose(loudness._weighted(audio, 8000), expected, atol=1e-12)

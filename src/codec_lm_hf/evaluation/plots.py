"""Pictures of audio and codes (matplotlib, extra `demo`)."""

from __future__ import annotations

import os

import numpy as np


def _spectrogram(axis, audio: np.ndarray, sampling_rate: int, title: str) -> None:
    size = 2 ** round(np.log2(0.032 * sampling_rate))
    signal = np.asarray(audio).mean(0)
    # Silence has no logarithm.
    axis.specgram(
        signal + 1e-7, NFFT=size, Fs=sampling_rate, noverlap=size * 3 // 4, cmap="magma", vmin=-130, vmax=-30
    )
    axis.set(title=title, ylabel="Hz")


def _figure(rows: int, heights: list[float] | None = None):
    # Not pyplot: no global state, and no window system needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1, height_ratios=heights)


def spectrogram_pair(original: np.ndarray, decoded: np.ndarray, sampling_rate: int, path: str | os.PathLike) -> None:
    """Write a picture of two recordings `(channels, samples)`, one above the other."""
    figure, axes = _figure(2)
    _spectrogram(axes[0], original, sampling_rate, "original")
    _spectrogram(axes[1], decoded, sampling_rate, "decoded")
    axes[1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)


def roundtrip_picture(
    original: np.ndarray,
    decoded: np.ndarray,
    codes: np.ndarray,
    sampling_rate: int,
    frame_rate: float,
    path: str | os.PathLike,
) -> None:
    """Write a picture of a recording, its codes `(codebooks, frames)` and the decoded recording, on one time axis."""
    figure, axes = _figure(3, [1, 0.8, 1])
    seconds = original.shape[-1] / sampling_rate
    _spectrogram(axes[0], original, sampling_rate, "original")
    axes[1].imshow(
        codes,
        aspect="auto",
        interpolation="nearest",
        cmap="viridis",
        extent=(0, codes.shape[1] / frame_rate, codes.shape[0] + 0.5, 0.5),
    )
    axes[1].set(title="codes", ylabel="codebook", yticks=range(1, codes.shape[0] + 1))
    _spectrogram(axes[2], decoded, sampling_rate, "decoded")
    for axis in axes:
        axis.set_xlim(0, seconds)
    axes[2].set_xlabel("seconds")
    figure.savefig(path, dpi=120)

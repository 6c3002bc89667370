"""Discriminators are models too: saved, pushed and loaded like the codec they train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .presets import PresetConfig

# What a part of each kind can be told, and what it is unless told otherwise; `None` must be given. The constructors in
# `modeling.discriminators` say what each means.
PART_DEFAULTS: dict[str, dict[str, Any]] = {
    # HiFi-GAN's, section 2.3 of its paper.
    "period": {
        "period": None,
        "channels": (32, 128, 512, 1024, 1024),
        "kernel_size": 5,
        "strides": (3, 3, 3, 3, 1),
        "last_kernel_size": 3,
        "whole_extra_period": False,
        "norm_type": "weight_norm",
        "negative_slope": 0.1,
    },
    "scale": {
        "num_poolings": 0,
        "decimation": 1,
        "channels": (128, 128, 256, 512, 1024, 1024, 1024),
        "kernel_sizes": (15, 41, 41, 41, 41, 41, 5),
        "strides": (1, 2, 2, 4, 4, 1, 1),
        "groups": (1, 4, 16, 16, 16, 16, 1),
        "last_kernel_size": 3,
        "norm_type": "weight_norm",
        "negative_slope": 0.1,
    },
    # EnCodec's.
    "stft": {
        "n_fft": None,
        "hop_length": None,
        "win_length": None,
        "filters": 32,
        "kernel_size": (3, 9),
        "stride": (1, 2),
        "dilations": (1, 2, 4),
        "normalized": True,
        "pooled_logits": False,
        "norm_type": "weight_norm",
        "negative_slope": 0.2,
    },
    # Descript's.
    "bands": {
        "n_fft": None,
        "filters": 32,
        "bands": ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
        "norm_type": "weight_norm",
        "negative_slope": 0.1,
    },
    # UnivNet's.
    "magnitude": {
        "n_fft": None,
        "hop_length": None,
        "win_length": None,
        "filters": 32,
        "kernel_sizes": ((3, 9), (3, 9), (3, 9), (3, 9), (3, 3), (3, 3)),
        "strides": ((1, 1), (1, 2), (1, 2), (1, 2), (1, 1), (1, 1)),
        "norm_type": "weight_norm",
        "negative_slope": 0.2,
    },
    # SoundStream's, of the waveform and of spectra.
    "wave": {
        "pooling": 1,
        "channels": 16,
        "num_layers": 4,
        "groups": 4,
        "max_channels": 1024,
        "negative_slope": 0.1,
    },
    "complex_stft": {
        "n_fft": 1024,
        "hop_length": 256,
        "win_length": 1024,
        "filters": 32,
        "multipliers": (1, 2, 4, 4, 8, 8),
        "strides": ((1, 2), (2, 2), (1, 2), (2, 2), (1, 2), (2, 2)),
        "normalized": False,
        "absolute_logits": True,
    },
}
NORM_TYPES = ("weight_norm", "spectral_norm", "none")
HIFIGAN_PERIODS = (2, 3, 5, 7, 11)
# FFT sizes, in the order of EnCodec's code; three of them in the code, all five in the paper (section 3.4).
ENCODEC_SIZES = (1024, 2048, 512)
ENCODEC_PAPER_SIZES = (1024, 2048, 512, 256, 128)


def period_parts(periods: Sequence[int] = HIFIGAN_PERIODS, **options) -> list[dict]:
    """Parts of a multi-period discriminator."""
    return [{"kind": "period", "period": period, **options} for period in periods]


def scale_parts(count: int = 3, first_norm_type: str = "spectral_norm", **options) -> list[dict]:
    """Parts of a multi-scale discriminator, each at half the rate of the one before it."""
    rest = options.pop("norm_type", "weight_norm")
    return [
        {"kind": "scale", "num_poolings": index, "norm_type": rest if index else first_norm_type, **options}
        for index in range(count)
    ]


def stft_parts(
    n_ffts: Sequence[int] = ENCODEC_SIZES,
    hop_lengths: Sequence[int] | None = None,
    win_lengths: Sequence[int] | None = None,
    **options,
) -> list[dict]:
    """Parts of a multi-scale STFT discriminator; windows as long as the FFT, hops a quarter of it unless given.

    Raises:
        ValueError: the lists differ in length.
    """
    hop_lengths = [size // 4 for size in n_ffts] if hop_lengths is None else hop_lengths
    win_lengths = n_ffts if win_lengths is None else win_lengths
    if not len(n_ffts) == len(hop_lengths) == len(win_lengths):
        raise ValueError(
            f"n_ffts, hop_lengths and win_lengths need one entry per scale each, got {len(n_ffts)}, "
            f"{len(hop_lengths)} and {len(win_lengths)}."
        )
    return [
        {"kind": "stft", "n_fft": size, "hop_length": hop, "win_length": window, **options}
        for size, hop, window in zip(n_ffts, hop_lengths, win_lengths, strict=True)
    ]


def magnitude_parts(
    n_ffts: Sequence[int], hop_lengths: Sequence[int], win_lengths: Sequence[int], **options
) -> list[dict]:
    """Parts of UnivNet's multi-resolution discriminator."""
    return [{**part, "kind": "magnitude"} for part in stft_parts(n_ffts, hop_lengths, win_lengths, **options)]


def band_parts(n_ffts: Sequence[int] = (2048, 1024, 512), **options) -> list[dict]:
    """Parts of Descript's multi-resolution discriminator."""
    return [{"kind": "bands", "n_fft": size, **options} for size in n_ffts]


# As the code of AudioDec builds it: the norm that its configuration asks for never reaches the scale parts.
_AUDIODEC_SCALES = scale_parts(
    first_norm_type="none",
    norm_type="none",
    channels=(128, 128, 256, 512, 1024, 1024, 1024),
    kernel_sizes=(15, 41, 41, 41, 41, 41, 5),
    strides=(1, 4, 4, 4, 4, 1, 1),
    groups=(1, 4, 16, 16, 16, 16, 1),
)
_AUDIODEC_PERIODS = period_parts(last_kernel_size=2)


@strict
class CodecDiscriminatorConfig(PresetConfig):
    """Configuration of `CodecDiscriminator`: a list of parts, each with an opinion of its own.

    Args:
        parts: one dict for each part: its `kind` (`"period"`, `"scale"`, `"stft"`, `"bands"`, `"magnitude"`, `"wave"`
            or `"complex_stft"`) and whatever differs from `PART_DEFAULTS`. The functions beside this class make lists
            of them. Default: the three scales of EnCodec's code.
        audio_channels: of the audio to judge.
        level_input: take the mean off each row and bring its peak to 0.8 first, as Descript's does.
    """

    model_type = "codec_discriminator"
    presets: ClassVar[dict[str, dict]] = {
        "encodec": {},
        "encodec_paper": {"parts": stft_parts(ENCODEC_PAPER_SIZES)},
        "hifigan": {"parts": period_parts() + scale_parts()},
        "hificodec": {"parts": period_parts() + scale_parts() + stft_parts(ENCODEC_PAPER_SIZES)},
        "speechtokenizer": {"parts": period_parts() + scale_parts() + stft_parts(ENCODEC_PAPER_SIZES)},
        "audiodec": {"parts": _AUDIODEC_SCALES + _AUDIODEC_PERIODS},
        "audiodec_univ": {
            "parts": magnitude_parts((1024, 2048, 512), (120, 240, 50), (600, 1200, 240)) + _AUDIODEC_PERIODS
        },
        "dac": {"parts": period_parts(whole_extra_period=True) + band_parts(), "level_input": True},
        "funcodec": {"parts": stft_parts(pooled_logits=True)},
    }

    parts: list[dict] | None = None
    audio_channels: int = 1
    level_input: bool = False

    def __post_init__(self, **kwargs):
        if self.parts is None:
            self.parts = stft_parts()
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if not self.parts:
            raise ValueError("parts is empty; give at least one part, or none at all for EnCodec's three.")
        for part in self.parts:
            self._check_part(part)

    @staticmethod
    def _check_part(part: dict) -> None:
        kind = part.get("kind")
        if kind not in PART_DEFAULTS:
            raise ValueError(f"a part's kind must be one of {', '.join(PART_DEFAULTS)}, got {kind!r}.")
        known = PART_DEFAULTS[kind]
        unknown = sorted(set(part) - set(known) - {"kind"})
        if unknown:
            raise ValueError(f"a part of kind {kind!r} has no {unknown[0]!r}; it has: {', '.join(known)}.")
        missing = [name for name, value in known.items() if value is None and part.get(name) is None]
        if missing:
            raise ValueError(f"a part of kind {kind!r} needs {missing[0]!r}.")
        norm_type = part.get("norm_type", "none")
        if norm_type not in NORM_TYPES:
            raise ValueError(f"norm_type must be one of {NORM_TYPES}, got {norm_type!r}.")

    def options(self, index: int) -> dict[str, Any]:
        """Everything that part `index` is built with, but for its kind."""
        part = dict(self.parts[index])
        return {**PART_DEFAULTS[part.pop("kind")], **part}

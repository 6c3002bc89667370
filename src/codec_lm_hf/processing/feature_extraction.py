"""What a person has (arrays of samples) to what every codec takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor

from ..configuration.codec_base import LARGEST_PEAK
from ..hub import RemoteStubMixin
from .audio import to_format


class CodecFeatureExtractor(RemoteStubMixin, SequenceFeatureExtractor):
    """Pads recordings into a batch and checks them. Serves every codec of this package.

    Args:
        feature_size: audio channels, 1 or 2.
        sampling_rate: Hz that the codec works at.
        padding_value: value of the samples after a shorter recording's end.

    Calling it returns `input_values (batch, channels, samples)` and, with padding, `padding_mask (batch, samples)`.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **kwargs
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)

    def __call__(
        self,
        raw_audio: np.ndarray | Sequence[float] | Sequence[np.ndarray],
        sampling_rate: int | None = None,
        padding: bool | str | None = True,
        truncation: bool = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        resample: bool = False,
        remix: bool = False,
    ) -> BatchFeature:
        """Make model inputs.

        Args:
            raw_audio: one recording or a list of them; each `(samples,)`, or `(channels, samples)`. Floats in [-1, 1].
            sampling_rate: Hz of `raw_audio`; taken to be the codec's own if not given.
            padding, truncation, max_length (samples), pad_to_multiple_of (samples), return_tensors: as everywhere in
                transformers; `padding=None` is `True`, as for its codecs.
            resample: convert from `sampling_rate` to the codec's rate instead of refusing another rate.
            remix: average two channels, or repeat one, instead of refusing another number than the codec's.

        Raises:
            ValueError: no samples, NaN or infinite samples, 16-bit integers, other channels than the codec's without
                `remix=True`, more than two of them, or another rate than the codec's without `resample=True`.
        """
        # Transformers' own codecs have it as their default, and mean the same.
        padding = True if padding is None else padding
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        if rate <= 0:
            raise ValueError(f"sampling_rate={rate} Hz; expected the rate of raw_audio, a positive number.")
        if rate != self.sampling_rate and not resample:
            raise ValueError(
                f"sampling_rate={rate} Hz, but this codec works at {self.sampling_rate} Hz; pass resample=True, or "
                "resample the audio first (soxr.resample)."
            )
        recordings = [self._check(audio, place, remix) for place, audio in enumerate(as_list(raw_audio))]
        # What this changes, it was asked to change: anything else was refused.
        recordings = [to_format(audio, rate, self.sampling_rate, self.feature_size)[0] for audio in recordings]
        # `pad` works on (samples,) or (samples, channels).
        columns = [audio[0] if self.feature_size == 1 else audio.T for audio in recordings]
        batch = self.pad(
            BatchFeature({"input_values": columns}),
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=bool(padding),
        )
        batch["input_values"] = [
            audio[None] if self.feature_size == 1 else audio.T for audio in map(np.asarray, batch["input_values"])
        ]
        if "attention_mask" in batch:
            batch["padding_mask"] = batch.pop("attention_mask")
        return batch.convert_to_tensors(return_tensors) if return_tensors is not None else batch

    def _auto_classes(self) -> dict[str, str]:
        ours = type(self) is CodecFeatureExtractor
        return dict.fromkeys(("AutoFeatureExtractor", "AutoProcessor"), "CodecFeatureExtractor") if ours else {}

    def _check(self, audio, place: int, remix: bool) -> np.ndarray:
        """One recording as float32 `(channels, samples)`."""
        audio = np.asarray(audio)
        name = f"recording {place}"
        if audio.ndim == 1:
            audio = audio[None]
        if audio.ndim != 2:
            raise ValueError(f"{name} has shape {audio.shape}; expected (samples,) or (channels, samples).")
        if audio.shape[-1] == 0:
            raise ValueError(f"{name} holds no samples; leave it out.")
        if audio.shape[0] > 2:
            hint = " It looks like (samples, channels): transpose it." if audio.shape[1] <= 2 else ""
            raise ValueError(f"{name} has {audio.shape[0]} channels; this codec takes {self.feature_size}.{hint}")
        if audio.shape[0] != self.feature_size and not remix:
            way = "average its channels (audio.mean(0))" if self.feature_size == 1 else "repeat it for both channels"
            raise ValueError(f"{name} has {audio.shape[0]} channels; this codec takes {self.feature_size}: {way}.")
        if not np.issubdtype(audio.dtype, np.floating):
            raise ValueError(f"{name} is {audio.dtype}; expected floats in [-1, 1]: divide 16-bit samples by 32768.")
        audio = audio.astype(np.float32)
        if not np.isfinite(audio).all():
            raise ValueError(f"{name} holds NaN or infinite samples; clean it first (numpy.nan_to_num).")
        peak = float(np.abs(audio).max())
        if peak > LARGEST_PEAK:
            raise ValueError(
                f"{name} peaks at {peak:.0f}; expected floats in [-1, 1]. 16-bit samples must be divided by 32768."
            )
        return audio


def as_list(raw_audio) -> list:
    """One recording or several, as a list of them."""
    if isinstance(raw_audio, (list, tuple)) and len(raw_audio) == 0:
        raise ValueError("raw_audio is an empty list; give at least one recording.")
    if isinstance(raw_audio, (list, tuple)) and not np.isscalar(raw_audio[0]):
        return list(raw_audio)
    return [np.asarray(raw_audio, dtype=None)]

"""Spectrograms that losses compare: magnitudes or powers of FFT bins or mel bands, and their logarithms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling.layers.stft import HannWindow, mel_filters

PADDINGS = ("zeros", "reflect", "whole_hops", "begun_hops")


class Spectrogram(nn.Module):
    """Magnitudes or powers `(batch, channels, bins, frames)` of audio `(batch, channels, samples)`, Hann window.

    Args:
        window_size: samples of the window.
        hop_length: samples from window to window; a quarter of the window by default.
        n_fft: samples of the FFT, with the window in their middle; `window_size` by default.
        padding: what stands around the signal.
            `"zeros"`: half an FFT of zeros on both sides: a window centred on sample 0, then one at every hop.
            `"reflect"`: as much, but the signal's own reflection (DAC, AudioDec, Parallel WaveGAN).
            `"whole_hops"`: reflections of `(n_fft - hop_length) / 2`: one frame per whole hop of samples (HiFi-GAN,
            and after it HiFi-Codec, SpeechTokenizer, FunCodec).
            `"begun_hops"`: the same, the last hop filled up by reflection: one frame per begun hop (DAC's
            `match_stride`, which comes to this by another way).
        power: 1 for magnitudes, 2 for powers.
        power_floor: smallest power of a bin; above 0, because the magnitude of silence has no gradient.
        add_power_floor: add `power_floor` to every power instead of raising those below to it (HiFi-GAN).
        log_floor: `log` takes values below this as this; by default `power_floor` alone bounds them.
        natural_log: `log` is the natural logarithm, not that to base 10.

    Raises:
        ValueError: an argument is out of range; in `forward`, the audio is shorter than the padding needs.
    """

    def __init__(
        self,
        window_size: int,
        hop_length: int | None = None,
        n_fft: int | None = None,
        padding: str = "zeros",
        power: int = 1,
        power_floor: float = 1e-10,
        add_power_floor: bool = False,
        log_floor: float | None = None,
        natural_log: bool = False,
    ) -> None:
        super().__init__()
        self.hop_length = window_size // 4 if hop_length is None else hop_length
        self.n_fft = window_size if n_fft is None else n_fft
        if not 0 < window_size <= self.n_fft:
            raise ValueError(f"window_size must be positive and at most n_fft {self.n_fft}, got {window_size}.")
        if not 0 < self.hop_length <= window_size:
            raise ValueError(f"hop_length must be positive and at most window_size {window_size}, got {hop_length}.")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}.")
        if power not in (1, 2):
            raise ValueError(f"power must be 1 (magnitudes) or 2 (powers), got {power}.")
        if power_floor <= 0 or (log_floor is not None and log_floor <= 0):
            raise ValueError(f"floors must be positive, got power_floor {power_floor} and log_floor {log_floor}.")
        self.window_size = window_size
        self.padding = padding
        self.power = power
        self.power_floor = power_floor
        self.add_power_floor = add_power_floor
        self.log_floor = log_floor
        self.natural_log = natural_log
        self.hann = HannWindow(window_size)

    def forward(self, audio: Tensor) -> Tensor:
        power = torch.view_as_real(self.spectrum(audio)).square().sum(-1)
        power = power + self.power_floor if self.add_power_floor else power.clamp(min=self.power_floor)
        return power.sqrt() if self.power == 1 else power

    def log(self, values: Tensor) -> Tensor:
        """Logarithm of what `forward` returned."""
        if self.log_floor is not None:
            values = values.clamp(min=self.log_floor)
        return values.log() if self.natural_log else values.log10()

    def spectrum(self, audio: Tensor) -> Tensor:
        """The complex spectrum `(batch, channels, bins, frames)`."""
        left, right = self._margins(audio.shape[-1])
        padded = F.pad(
            audio.flatten(0, 1).float(), (left, right), "constant" if self.padding == "zeros" else "reflect"
        )
        spectrum = torch.stft(
            padded,
            self.n_fft,
            self.hop_length,
            self.window_size,
            self.hann.window,
            center=False,
            return_complex=True,
        )
        return spectrum.unflatten(0, audio.shape[:2])

    def _margins(self, samples: int) -> tuple[int, int]:
        if self.padding in ("zeros", "reflect"):
            left = right = self.n_fft // 2
        else:
            left = right = (self.n_fft - self.hop_length) // 2
        if self.padding == "begun_hops":
            right += -samples % self.hop_length
        # A reflection does not repeat the outermost sample.
        needed = 1 if self.padding == "zeros" else max(self.n_fft - left - right, max(left, right) + 1)
        if samples < needed:
            raise ValueError(
                f"a spectrogram with n_fft {self.n_fft} and padding {self.padding!r} needs at least {needed} samples, "
                f"got {samples}: use longer crops."
            )
        return left, right


class MelSpectrogram(Spectrogram):
    """Mel bands `(batch, channels, num_mels, frames)` of audio `(batch, channels, samples)`.

    Args:
        sampling_rate: Hz.
        window_size: samples of the window.
        num_mels: bands.
        min_frequency, max_frequency: Hz, see `mel_filters`.
        mel_scale, mel_norm: see `mel_filters`.
        **spectrogram: as for `Spectrogram`.
    """

    def __init__(
        self,
        sampling_rate: int,
        window_size: int,
        num_mels: int,
        min_frequency: float = 0.0,
        max_frequency: float | None = None,
        mel_scale: str = "htk",
        mel_norm: str | None = None,
        **spectrogram,
    ) -> None:
        super().__init__(window_size, **spectrogram)
        filters = mel_filters(sampling_rate, self.n_fft, num_mels, min_frequency, max_frequency, mel_scale, mel_norm)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        return torch.matmul(self.filters, super().forward(audio))

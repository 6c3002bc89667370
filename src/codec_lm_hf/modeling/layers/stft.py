"""Short-time Fourier analysis and synthesis as streaming layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank

from .conv import OverlapAdd, SlidingWindow
from .precision import Float32Buffers
from .streaming import TimeContext


class HannWindow(Float32Buffers):
    """A periodic Hann window of `size` samples, float32 whatever the model's dtype is.

    It is kept out of checkpoints; `_init_weights` refills it (see `reset`).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size, dtype=torch.float32), persistent=False)

    def reset(self) -> None:
        """Fill the buffer: after a load through the meta device it holds whatever was in memory."""
        init.copy_(self.window, torch.hann_window(self.size, dtype=torch.float32))


class Stft(SlidingWindow):
    """Spectrum of the last `window_size` samples at every hop, with zeros before the signal.

    Args:
        window_size: samples of a window, and of the FFT.
        hop_length: samples from window to window.
        centred: instead, window `n` is centred at sample `n * hop_length`, with the signal reflected at its ends;
            there are `samples // hop_length + 1` of them (`torch.stft`'s default).

    `forward(audio (batch, 1, samples), time)` returns `(batch, window_size + 2, frames)` float32: real parts of the
    `window_size // 2 + 1` bins, then imaginary parts.
    """

    def __init__(self, window_size: int, hop_length: int, centred: bool = False) -> None:
        padding, pad_mode = (window_size // 2, "reflect") if centred else (None, "constant")
        super().__init__(window_size, hop_length, window_size + 2, causal=True, pad_mode=pad_mode, padding=padding)
        self.hann = HannWindow(window_size)

    def compute(self, x: Tensor) -> Tensor:
        frames = x[:, 0].float().unfold(-1, self.kernel_size, self.stride) * self.hann.window
        spectrum = torch.fft.rfft(frames).transpose(1, 2)
        return torch.cat([spectrum.real, spectrum.imag], dim=1)


class InverseStft(OverlapAdd):
    """Signal from one-sided spectra: windowed inverse FFT, overlap-add, divided by the windows' energy.

    Args:
        window_size: samples of a window, and of the FFT.
        hop_length: samples from window to window.
        lookahead: samples of each window that lie after the frame's own hop. More of them, better overlap; they are
            the latency of a stream. `None`: the counterpart of a centred `Stft`, which gives
            `(frames - 1) * hop_length` samples (`torch.istft`'s default).

    `forward(spectra (batch, window_size + 2, frames), time)` returns `(batch, 1, frames * hop_length)` float32.
    """

    def __init__(self, window_size: int, hop_length: int, lookahead: int | None) -> None:
        trim_left, trim_right = (window_size // 2,) * 2 if lookahead is None else (lookahead, None)
        super().__init__(window_size, hop_length, 2, trim_left, trim_right)
        self.hann = HannWindow(window_size)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        # A third "part" beside real and imaginary marks frames that exist: their windows make the energy.
        present = x.new_ones(x.shape[0], 1, x.shape[-1])
        return super().forward(torch.cat([x, present], dim=1), time)

    def compute(self, x: Tensor) -> Tensor:
        real, imaginary, present = x.float().split([x.shape[1] // 2, x.shape[1] // 2, 1], dim=1)
        frames = torch.fft.irfft(torch.complex(real, imaginary).transpose(1, 2)) * self.hann.window
        energy = present.transpose(1, 2) * self.hann.window.square()
        stacked = torch.stack([frames, energy], dim=1)
        # (batch, 2, frames, window) -> overlapping hops, shifted and added.
        parts = F.pad(stacked, (0, -stacked.shape[-1] % self.stride)).unflatten(-1, (-1, self.stride))
        steps, overlap = parts.shape[2], parts.shape[3]
        total = stacked.new_zeros(*stacked.shape[:2], steps + overlap - 1, self.stride)
        for shift in range(overlap):
            total[:, :, shift : shift + steps] += parts[:, :, :, shift]
        return total.flatten(2)[..., : (steps - 1) * self.stride + stacked.shape[-1]]

    def finish(self, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        signal, energy = y.split(1, dim=1)
        return signal / energy.clamp(min=1e-3)


def mel_filters(
    sampling_rate: int,
    window_size: int,
    num_mels: int,
    min_frequency: float = 0.0,
    max_frequency: float | None = None,
    mel_scale: str = "htk",
    mel_norm: str | None = None,
) -> Tensor:
    """Triangular mel filters `(num_mels, window_size // 2 + 1)`.

    Args:
        sampling_rate: Hz.
        window_size: samples of the FFT.
        num_mels: filters.
        min_frequency, max_frequency: Hz, the outer feet of the first and the last filter; 0 and Nyquist by default.
        mel_scale: `"htk"` (torchaudio's default) or `"slaney"` (librosa's). Bins are where that library has them:
            torchaudio's last is at Nyquist, which it rounds down to whole Hz.
        mel_norm: None for unit peaks (torchaudio's default), `"slaney"` for unit areas in Hz (librosa's).
    """
    bins = window_size // 2 + 1
    wanted, rate, nyquist = bins, sampling_rate, float(sampling_rate // 2)
    if mel_scale == "slaney":
        # The bins up to the rate itself: nothing is rounded.
        wanted, rate, nyquist = window_size + 1, 2 * sampling_rate, sampling_rate / 2
    bank = mel_filter_bank(
        num_frequency_bins=wanted,
        num_mel_filters=num_mels,
        min_frequency=min_frequency,
        max_frequency=nyquist if max_frequency is None else max_frequency,
        sampling_rate=rate,
        norm=mel_norm,
        mel_scale=mel_scale,
    )[:bins]
    return torch.from_numpy(bank.T.copy()).float()

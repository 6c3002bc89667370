"""How much of each pitch class a sound holds, over time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .stft import HannWindow

_CONCERT_PITCH = 440.0


def chroma_filter_bank(sampling_rate: int, n_fft: int, num_chroma: int = 12) -> Tensor:
    """Weights `(num_chroma, n_fft // 2 + 1)` from the bins of a spectrum to pitch classes, C first.

    Each bin counts for the classes near its pitch, as a bell as wide as the bins are apart there, of norm 1; bins far
    from the fifth octave count less.

    Source: D. Ellis, "Chroma feature analysis and synthesis" (2007), `librosa.filters.chroma` with its defaults.
    """
    bins = torch.arange(1, n_fft, dtype=torch.float64) * sampling_rate / n_fft
    pitches = num_chroma * torch.log2(bins / (_CONCERT_PITCH / 16))
    # The first bin has no pitch: an octave and a half below the second.
    pitches = torch.cat([pitches[:1] - 1.5 * num_chroma, pitches])
    widths = torch.cat([pitches.diff().clamp(min=1), torch.ones(1, dtype=torch.float64)])
    half = round(num_chroma / 2)
    distances = pitches - torch.arange(num_chroma)[:, None]
    distances = torch.remainder(distances + half + 10 * num_chroma, num_chroma) - half
    weights = F.normalize(torch.exp(-0.5 * (2 * distances / widths) ** 2), dim=0)
    weights = weights * torch.exp(-0.5 * ((pitches / num_chroma - 5) / 2) ** 2)
    # From A, which the distances begin with, to C.
    return weights.roll(-3 * (num_chroma // 12), 0)[:, : n_fft // 2 + 1].float()


class ChromaExtractor(nn.Module):
    """The strongest pitch class of each frame, as one-hot vectors.

    Args:
        sampling_rate: Hz.
        n_fft: samples of a window; windows are a quarter of it apart.
        num_chroma: pitch classes.

    Source: `audiocraft/modules/chroma.py`.
    """

    def __init__(self, sampling_rate: int, n_fft: int, num_chroma: int = 12) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.n_fft = n_fft
        self.num_chroma = num_chroma
        self.hann = HannWindow(n_fft)
        self.register_buffer("filters", self._filters(), persistent=False)

    def reset(self) -> None:
        """Fill the buffer after a load through the meta device."""
        init.copy_(self.filters, self._filters())

    def energies(self, audio: Tensor) -> Tensor:
        """Energy of each class over that of the strongest: audio `(batch, samples)` to `(batch, frames, classes)`."""
        missing = self.n_fft - audio.shape[-1]
        if missing > 0:
            audio = F.pad(audio, (missing // 2, missing - missing // 2))
        window = self.hann.window
        spectrum = torch.stft(
            audio.float(), self.n_fft, self.n_fft // 4, window=window, pad_mode="reflect", return_complex=True
        )
        power = (spectrum.abs() / window.pow(2).sum().sqrt()) ** 2
        return F.normalize(self.filters.float() @ power, p=math.inf, dim=1, eps=1e-6).transpose(1, 2)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio `(batch, samples)` to one-hot vectors `(batch, frames, classes)`; silence is the first class."""
        return F.one_hot(self.energies(audio).argmax(-1), self.num_chroma).float()

    def _filters(self) -> Tensor:
        return chroma_filter_bank(self.sampling_rate, self.n_fft, self.num_chroma)

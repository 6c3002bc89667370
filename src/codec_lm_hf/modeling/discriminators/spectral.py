"""Discriminators of spectra: EnCodec's, Descript's, UnivNet's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.stft import HannWindow
from .parts import Judgement, normed, run_stack


def _same(kernel_size: Sequence[int], dilation: int = 1) -> tuple[int, int]:
    """Padding that keeps (time, frequency), with a dilation along time."""
    time, frequency = kernel_size
    return (time - 1) * dilation // 2, (frequency - 1) // 2


def _planes(spectrum: Tensor, audio: Tensor) -> Tensor:
    """Complex `(batch * channels, bins, frames)` to real planes `(batch, 2 * channels, frames, bins)`."""
    spectrum = spectrum.unflatten(0, audio.shape[:2])
    return torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)


class StftDiscriminator(nn.Module):
    """2-D convolutions over (time, frequency) of the complex spectrum, real and imaginary parts as channels.

    Args:
        audio_channels: of the audio.
        n_fft, hop_length, win_length: of the spectrum, in samples; windows are not centred.
        filters: channels of every convolution.
        kernel_size, stride: (time, frequency) of the convolutions; the stride is that of the dilated ones.
        dilations: along time, one convolution each.
        normalized: divide the spectrum by the window's norm.
        pooled_logits: average the logits over 4 x 4, every second one, as FunCodec does.
        norm_type, negative_slope: of the convolutions, and of the leaky ReLU after each.

    Source: EnCodec, section 3.4; `DiscriminatorSTFT` in `encodec/msstftd.py`. As there, the first convolution has no
    weight norm.
    """

    def __init__(
        self,
        audio_channels: int,
        n_fft: int,
        hop_length: int,
        win_length: int,
        filters: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        dilations: Sequence[int],
        normalized: bool,
        pooled_logits: bool,
        norm_type: str,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.normalized = normalized
        self.pooled_logits = pooled_logits
        self.negative_slope = negative_slope
        self.hann = HannWindow(win_length)
        kernel, square = tuple(kernel_size), (kernel_size[0], kernel_size[0])
        convs = [nn.Conv2d(2 * audio_channels, filters, kernel, padding=_same(kernel))]
        for dilation in dilations:
            padding = _same(kernel, dilation)
            conv = nn.Conv2d(filters, filters, kernel, tuple(stride), dilation=(dilation, 1), padding=padding)
            convs.append(normed(conv, norm_type))
        convs.append(normed(nn.Conv2d(filters, filters, square, padding=_same(square)), norm_type))
        self.convs = nn.ModuleList(convs)
        self.conv_post = normed(nn.Conv2d(filters, 1, square, padding=_same(square)), norm_type)

    def forward(self, audio: Tensor) -> Judgement:
        x = self._spectrum(audio).to(self.convs[0].weight.dtype)
        # Convolutions with few channels take about half the time in this layout.
        x, maps = run_stack(self.convs, x.contiguous(memory_format=torch.channels_last), self.negative_slope)
        logits = self.conv_post(x)
        if self.pooled_logits:
            logits = F.avg_pool2d(logits, 4, stride=2, padding=1, count_include_pad=False)
        return logits, maps

    def _spectrum(self, audio: Tensor) -> Tensor:
        if audio.shape[-1] < self.n_fft:
            raise ValueError(
                f"this scale needs at least {self.n_fft} samples, got {audio.shape[-1]}: use longer crops."
            )
        window = self.hann.window
        spectrum = torch.stft(
            audio.flatten(0, 1).float(),
            self.n_fft,
            self.hop_length,
            self.win_length,
            window,
            center=False,
            return_complex=True,
        )
        if self.normalized:
            spectrum = spectrum / window.square().sum().sqrt()
        return _planes(spectrum, audio)


class BandDiscriminator(nn.Module):
    """2-D convolutions over (time, frequency) of the complex spectrum, with weights of their own for each band.

    Args:
        audio_channels: of the audio.
        n_fft: samples of the FFT and of the window; the hop is a quarter of it, and there are
            `ceil(samples / hop)` frames.
        filters: channels of every convolution.
        bands: lower and upper edge of each band, as shares of the bins.
        norm_type, negative_slope: of the convolutions, and of the leaky ReLU after each.

    Source: Kumar et al., 2023, "High-Fidelity Audio Compression with Improved RVQGAN", section 3.4; `MRD` in
    `dac/model/discriminator.py`.
    """

    _KERNELS = ((3, 9), (3, 9), (3, 9), (3, 9), (3, 3))
    _STRIDES = ((1, 1), (1, 2), (1, 2), (1, 2), (1, 1))

    def __init__(
        self,
        audio_channels: int,
        n_fft: int,
        filters: int,
        bands: Sequence[Sequence[float]],
        norm_type: str,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, n_fft // 4
        self.negative_slope = negative_slope
        self.hann = HannWindow(n_fft)
        bins = n_fft // 2 + 1
        self.edges = [(int(low * bins), int(high * bins)) for low, high in bands]
        self.band_convs = nn.ModuleList([nn.ModuleList() for _ in bands])
        for convs in self.band_convs:
            width = 2 * audio_channels
            for kernel, stride in zip(self._KERNELS, self._STRIDES, strict=True):
                convs.append(normed(nn.Conv2d(width, filters, kernel, stride, padding=_same(kernel)), norm_type))
                width = filters
        self.conv_post = normed(nn.Conv2d(filters, 1, (3, 3), padding=(1, 1)), norm_type)

    def forward(self, audio: Tensor) -> Judgement:
        spectrum = self._spectrum(audio).to(self.conv_post.weight.dtype)
        lasts, maps = [], ()
        for convs, (low, high) in zip(self.band_convs, self.edges, strict=True):
            x, band_maps = run_stack(convs, spectrum[..., low:high], self.negative_slope)
            lasts.append(x)
            maps += band_maps
        return self.conv_post(torch.cat(lasts, dim=-1)), maps

    def _spectrum(self, audio: Tensor) -> Tensor:
        samples, side = audio.shape[-1], (self.n_fft - self.hop_length) // 2
        if samples <= self.n_fft // 2 + side:
            raise ValueError(f"windows of {self.n_fft} samples need longer crops than {samples} samples.")
        padded = F.pad(audio.flatten(0, 1).float(), (side, side + -samples % self.hop_length), mode="reflect")
        window = self.hann.window
        spectrum = torch.stft(padded, self.n_fft, self.hop_length, window=window, center=True, return_complex=True)
        # Two frames at either end see more padding than signal.
        return _planes(spectrum[..., 2:-2], audio)


class MagnitudeDiscriminator(nn.Module):
    """2-D convolutions over (time, frequency) of the magnitude spectrum.

    Args:
        audio_channels: of the audio.
        n_fft, hop_length, win_length: of the spectrum, in samples.
        filters: channels of every convolution but the last, which gives the logits.
        kernel_sizes, strides: (time, frequency) of each convolution.
        norm_type, negative_slope: of the convolutions, and of the leaky ReLU after each but the last.

    Source: Jang et al., 2021, "UnivNet", section 2.3, with the padding of AudioDec's code.
    """

    def __init__(
        self,
        audio_channels: int,
        n_fft: int,
        hop_length: int,
        win_length: int,
        filters: int,
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        norm_type: str,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.negative_slope = negative_slope
        self.hann = HannWindow(win_length)
        widths = [audio_channels] + [filters] * (len(kernel_sizes) - 1) + [1]
        convs = [
            normed(nn.Conv2d(narrow, wide, tuple(kernel), tuple(stride), padding=_same(kernel)), norm_type)
            for narrow, wide, kernel, stride in zip(widths[:-1], widths[1:], kernel_sizes, strides, strict=True)
        ]
        self.convs, self.conv_post = nn.ModuleList(convs[:-1]), convs[-1]

    def forward(self, audio: Tensor) -> Judgement:
        x, maps = run_stack(self.convs, self._spectrum(audio).to(self.conv_post.weight.dtype), self.negative_slope)
        return self.conv_post(x), maps

    def _spectrum(self, audio: Tensor) -> Tensor:
        side = self.win_length // 2
        if audio.shape[-1] + 2 * side <= self.n_fft // 2:
            raise ValueError(f"an FFT of {self.n_fft} samples needs longer crops than {audio.shape[-1]} samples.")
        padded = F.pad(audio.flatten(0, 1).float(), (side, side))
        window = self.hann.window
        spectrum = torch.stft(
            padded, self.n_fft, self.hop_length, self.win_length, window, center=True, return_complex=True
        )
        return spectrum.abs().unflatten(0, audio.shape[:2]).transpose(2, 3)

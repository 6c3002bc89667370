"""SoundStream's discriminators, as FunCodec has them: of the waveform at lower rates, and of complex spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .parts import Judgement


class WaveDiscriminator(nn.Module):
    """Strided, grouped convolutions along a waveform whose rate was lowered first.

    Args:
        audio_channels: of the audio.
        pooling: division of the rate, by averaging twice as many samples; 1 for none.
        channels: after the first convolution; four times as many after each strided one, up to `max_channels`.
        num_layers: strided convolutions, whose activations are the feature maps.
        groups: of the strided convolutions.
        max_channels: see `channels`.
        negative_slope: of the leaky ReLU after each convolution but the first and the last.

    Source: Zeghidour et al., 2021, "SoundStream", section III-D; `ConvDiscriminator` in
    `funcodec/models/discriminator/sound_stream.py`.
    """

    _KERNEL, _STRIDE = 8, 4

    def __init__(
        self,
        audio_channels: int,
        pooling: int,
        channels: int,
        num_layers: int,
        groups: int,
        max_channels: int,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.negative_slope = negative_slope
        self.first = nn.Conv1d(audio_channels, channels, 7)
        self.convs = nn.ModuleList()
        width = channels
        for _ in range(num_layers):
            wide = min(4 * width, max_channels)
            self.convs.append(
                nn.Conv1d(width, wide, self._KERNEL, self._STRIDE, padding=self._KERNEL // 2, groups=groups)
            )
            width = wide
        self.hidden = nn.Conv1d(width, width, 3)
        self.conv_post = nn.Conv1d(width, 1, 1)

    def forward(self, audio: Tensor) -> Judgement:
        if self.pooling > 1:
            audio = F.avg_pool1d(audio, 2 * self.pooling, self.pooling, padding=self.pooling)
        x, maps = self.first(audio), []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.negative_slope)
            maps.append(x)
        return self.conv_post(F.leaky_relu(self.hidden(x), self.negative_slope)), tuple(maps)


class ComplexConv2d(nn.Module):
    """2-D convolution of complex numbers; weight and bias are kept as pairs of real and imaginary part.

    Arguments as in `torch.nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel_size, 2))
        self.bias = nn.Parameter(torch.empty(out_channels, 2))

    def reset(self) -> None:
        """Draw both parts as `torch.nn.Conv2d` draws its weights."""
        bound = math.prod(self.weight.shape[1:-1]) ** -0.5
        for parameter in (self.weight, self.bias):
            init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        # Complex numbers have no half precision here.
        weight, bias = (torch.view_as_complex(part.float()) for part in (self.weight, self.bias))
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class ModRelu(nn.Module):
    """ReLU of the modulus plus a learnt number; the angle stays.

    Source: Arjovsky et al., 2016, "Unitary Evolution Recurrent Neural Networks", section 4.1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(()))

    def reset(self) -> None:
        init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.polar(F.relu(x.abs() + self.b.float()), x.angle())


class ComplexStftDiscriminator(nn.Module):
    """Complex convolutions over (frequency, time) of the complex spectrum; the feature maps are complex, too.

    Args:
        audio_channels: of the audio; 1.
        n_fft, hop_length, win_length: of the spectrum, in samples; windows are centred, and rectangular.
        filters: channels of the first convolution.
        multipliers: of `filters`, after each unit of two convolutions.
        strides: (frequency, time) of the second convolution of each unit.
        normalized: divide the spectrum by the root of `n_fft`.
        absolute_logits: the modulus of the complex logits; otherwise real and imaginary part on an axis of their own.

    Source: Zeghidour et al., 2021, "SoundStream", section III-D; `ComplexSTFTDiscriminator` in
    `funcodec/models/discriminator/sound_stream.py`.
    """

    # Bins that the last convolution looks at.
    _LAST = 16

    def __init__(
        self,
        audio_channels: int,
        n_fft: int,
        hop_length: int,
        win_length: int,
        filters: int,
        multipliers: Sequence[int],
        strides: Sequence[Sequence[int]],
        normalized: bool,
        absolute_logits: bool,
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.win_length = n_fft, hop_length, win_length
        self.normalized = normalized
        self.absolute_logits = absolute_logits
        self.first = ComplexConv2d(audio_channels, filters, (7, 7), padding=(3, 3))
        widths = [filters, *(filters * multiplier for multiplier in multipliers)]
        self.units = nn.ModuleList()
        for narrow, wide, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            kernel = (stride[0] + 2, stride[1] + 2)
            padding = (kernel[0] // 2, kernel[1] // 2)
            down = ComplexConv2d(narrow, wide, kernel, tuple(stride), padding)
            self.units.append(nn.Sequential(ComplexConv2d(narrow, narrow, (3, 3), padding=(1, 1)), ModRelu(), down))
        self.conv_post = ComplexConv2d(widths[-1], 1, (self._LAST, 1))

    def forward(self, audio: Tensor) -> Judgement:
        x = self.first(self._spectrum(audio))
        maps = [x]
        for unit in self.units:
            x = unit(x)
            maps.append(x)
        logits = self.conv_post(x)
        return logits.abs() if self.absolute_logits else torch.view_as_real(logits), tuple(maps)

    def _spectrum(self, audio: Tensor) -> Tensor:
        if audio.shape[-1] <= self.n_fft // 2:
            raise ValueError(f"an FFT of {self.n_fft} samples needs longer crops than {audio.shape[-1]} samples.")
        window = torch.ones(self.win_length, device=audio.device)
        spectrum = torch.stft(
            audio.flatten(0, 1).float(),
            self.n_fft,
            self.hop_length,
            self.win_length,
            window,
            normalized=self.normalized,
            return_complex=True,
        )
        return spectrum.unflatten(0, audio.shape[:2])

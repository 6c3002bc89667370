"""DAC's encoder and decoder: strided convolutions around residual units with snake activations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv1d, ConvTranspose1d
from .snake import Snake
from .streaming import Stream, TimeContext, cached_frames, delayed, in_pieces, lengths_of, zero_padding

_DILATIONS = (1, 3, 9)
_KERNEL = 7
# Of the encoder's last convolution.
_LATENT_KERNEL = 3


class WholeFrames(nn.Module):
    """Zeros after the end of a signal, up to a multiple of `hop_length` steps."""

    def __init__(self, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        steps = x.shape[-1]
        if isinstance(time, Stream):
            steps += time.take(self) or 0
            time.keep(self, steps % self.hop_length)
            return F.pad(x, (0, -steps % self.hop_length)) if time.final else x
        lengths = lengths_of(time)
        if lengths is not None:
            x = zero_padding(x, time)
            time.lengths = lengths + -lengths % self.hop_length
        return F.pad(x, (0, -steps % self.hop_length))


class DacResidualUnit(nn.Module):
    """Two convolutions, each after a snake activation, added to their input.

    Args:
        channels: in and out.
        dilation: of the first convolution; the second has kernel 1.
        options: causal, norm_type and fused, for every convolution.

    Source: `ResidualUnit` in `dac/model/dac.py`.
    """

    def __init__(self, channels: int, dilation: int, options: dict) -> None:
        super().__init__()
        self.snake1 = Snake(channels)
        self.conv1 = Conv1d(channels, channels, _KERNEL, dilation=dilation, **options)
        self.snake2 = Snake(channels)
        self.conv2 = Conv1d(channels, channels, 1, **options)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = self.snake2(self.conv1(self.snake1(x), time))
        return self.conv2.added_to(delayed(self, x, y.shape[-1], time), y, time)


def _residual_units(channels: int, options: dict) -> nn.ModuleList:
    return nn.ModuleList([DacResidualUnit(channels, dilation, options) for dilation in _DILATIONS])


class DacEncoderBlock(nn.Module):
    """Residual units, then a convolution that doubles the channels and divides the rate by `stride`."""

    def __init__(self, channels: int, stride: int, options: dict) -> None:
        super().__init__()
        self.units = _residual_units(channels, options)
        self.snake = Snake(channels)
        padding = math.ceil(stride / 2)
        self.conv = Conv1d(channels, 2 * channels, 2 * stride, stride=stride, padding=padding, **options)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        for unit in self.units:
            x = unit(x, time)
        return self.conv(self.snake(x), time)


class DacDecoderBlock(nn.Module):
    """A transposed convolution that halves the channels and multiplies the rate by `stride`, then residual units.

    With an odd stride the last of `steps * stride` outputs is missing, as in the original.
    """

    def __init__(self, channels: int, stride: int, options: dict) -> None:
        super().__init__()
        self.snake = Snake(channels)
        padding = math.ceil(stride / 2)
        self.conv = ConvTranspose1d(channels, channels // 2, 2 * stride, stride=stride, padding=padding, **options)
        self.units = _residual_units(channels // 2, options)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.conv(self.snake(x), time)
        for unit in self.units:
            x = unit(x, time)
        return x


class DacEncoder(nn.Module):
    """Waveform `(batch, 1, frames * prod(ratios))` to latents `(batch, dimension, frames)`.

    Args:
        dimension: channels of the latents.
        channels: after the first convolution; doubled by every block.
        ratios: stride of each block.
        options: causal, norm_type and fused, for every convolution.

    Source: `Encoder` in `dac/model/dac.py`.
    """

    def __init__(self, dimension: int, channels: int, ratios: Sequence[int], options: dict) -> None:
        super().__init__()
        self.hop_length, self.channels = math.prod(ratios), channels
        self.conv_in = Conv1d(1, channels, _KERNEL, **options)
        blocks = []
        for ratio in ratios:
            blocks.append(DacEncoderBlock(channels, ratio, options))
            channels *= 2
        self.blocks = nn.ModuleList(blocks)
        self.snake = Snake(channels)
        self.conv_out = Conv1d(channels, dimension, _LATENT_KERNEL, **options)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        if isinstance(time, Stream):
            frames = cached_frames(len(x), self.channels, self.hop_length)
            x = in_pieces(self._to_frames, x, time, frames * self.hop_length)
        else:
            x = self._to_frames(x, time)
        return self.conv_out(self.snake(x), time)

    def _to_frames(self, x: Tensor, time: TimeContext | None) -> Tensor:
        x = self.conv_in(x, time)
        for block in self.blocks:
            x = block(x, time)
        return x


class DacDecoder(nn.Module):
    """Latents `(batch, dimension, frames)` to waveform in [-1, 1] `(batch, 1, samples)`.

    There are `frames * prod(ratios)` samples, less those that odd ratios leave out, see `DacDecoderBlock`.

    Args:
        dimension, options: as in `DacEncoder`.
        channels: after the first convolution; halved by every block.
        ratios: stride of each block.

    Source: `Decoder` in `dac/model/dac.py`.
    """

    def __init__(self, dimension: int, channels: int, ratios: Sequence[int], options: dict) -> None:
        super().__init__()
        self.hop_length = math.prod(ratios)
        self.conv_in = Conv1d(dimension, channels, _KERNEL, **options)
        blocks = []
        for ratio in ratios:
            blocks.append(DacDecoderBlock(channels, ratio, options))
            channels //= 2
        self.blocks = nn.ModuleList(blocks)
        self.channels = channels
        self.snake = Snake(channels)
        self.conv_out = Conv1d(channels, 1, _KERNEL, **options)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.conv_in(x, time)
        if not isinstance(time, Stream):
            return self._to_samples(x, time)
        return in_pieces(self._to_samples, x, time, cached_frames(len(x), self.channels, self.hop_length))

    def _to_samples(self, x: Tensor, time: TimeContext | None) -> Tensor:
        for block in self.blocks:
            x = block(x, time)
        return self.conv_out(self.snake(x), time).tanh()

"""Residual units of depthwise, pointwise and grouped convolutions, as in Lyra's SoundStream."""

from __future__ import annotations

from torch import Tensor, nn

from .conv import Conv1d
from .int8 import Int8Add, Int8Conv1d, Int8LeakyReLU
from .streaming import TimeContext, delayed

# From none of the layers to all of them, counted from the end of the unit.
INT8_PARTS = ("none", "output", "convolutions", "all")


def leaky_relu(slope: float, arithmetic: str | None) -> nn.Module:
    """A leaky ReLU; in int8 where `arithmetic` is given."""
    return nn.LeakyReLU(slope) if arithmetic is None else Int8LeakyReLU(slope, arithmetic)


def conv1d(in_channels: int, out_channels: int, kernel_size: int, arithmetic: str | None, **options) -> Conv1d:
    """A causal convolution; in int8 where `arithmetic` is given. Other arguments as in `Conv1d`."""
    if arithmetic is None:
        return Conv1d(in_channels, out_channels, kernel_size, **options)
    return Int8Conv1d(in_channels, out_channels, kernel_size, arithmetic, **options)


class SeparableResidualUnit(nn.Module):
    """`x + output(act(pointwise(depthwise(act(x)))))`, causal.

    Args:
        channels: input and output channels.
        kernel_size, dilation: of the depthwise convolution; the other two have kernel 1.
        groups: of the output convolution.
        slope: of the leaky ReLUs.
        int8: which layers compute in int8: `"none"`, the `"output"` convolution and the activation before it, all
            three `"convolutions"` and the activation between them, or `"all"` layers and the sum.
        arithmetic: of these layers, see `layers.int8`; `None`: they are in floating point like the others.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilation: int,
        groups: int,
        slope: float,
        int8: str,
        arithmetic: str | None,
    ) -> None:
        super().__init__()
        level = INT8_PARTS.index(int8)
        everywhere, inside, after = (arithmetic if level >= needed else None for needed in (3, 2, 1))
        self.activation = leaky_relu(slope, everywhere)
        self.depthwise = conv1d(
            channels, channels, kernel_size, inside, dilation=dilation, groups=channels, bias=False
        )
        self.pointwise = conv1d(channels, channels, 1, inside)
        self.middle_activation = leaky_relu(slope, after)
        self.output = conv1d(channels, channels, 1, after, groups=groups)
        self.add = None if everywhere is None else Int8Add(arithmetic)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = self.pointwise(self.depthwise(self.activation(x), time), time)
        y = self.output(self.middle_activation(y), time)
        skip = delayed(self, x, y.shape[-1], time)
        return y + skip if self.add is None else self.add(y, skip)

"""ConvNeXt blocks along time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv1d
from .streaming import TimeContext, delayed


class ConvNeXtBlock(nn.Module):
    """Causal depthwise convolution along time, then a two-layer perceptron per step, around a skip connection.

    Args:
        channels: input and output channels.
        kernel_size: of the depthwise convolution.
        expansion: the perceptron's hidden layer has `expansion * channels` units.
        layer_scale: initial gain of the new part, learnt per channel.

    Source: Liu et al., 2022, "A ConvNet for the 2020s"; along time as in Vocos (Siuzdak, 2023).
    """

    def __init__(self, channels: int, kernel_size: int, expansion: int, layer_scale: float) -> None:
        super().__init__()
        self.depthwise = Conv1d(channels, channels, kernel_size, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.contract = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.initial_scale = layer_scale

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = self.depthwise(x, time).transpose(1, 2)
        y = self.contract(F.gelu(self.expand(self.norm(y)))) * self.scale
        return delayed(self, x, y.shape[1], time) + y.transpose(1, 2)


class SilentLinear(nn.Linear):
    """A linear layer whose weights start as zeros."""


class ConvNeXtContext(nn.Module):
    """ConvNeXt blocks of a width of their own, added to their input: at first they add nothing.

    So a trained codec can be given a longer memory at the frame rate, and goes on from where it stood.

    Args:
        channels: input and output channels.
        width: channels of the blocks.
        layers: blocks.
        kernel_size, expansion: see `ConvNeXtBlock`.
    """

    def __init__(self, channels: int, width: int, layers: int, kernel_size: int, expansion: int) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, kernel_size, expansion, layer_scale=1 / layers) for _ in range(layers)
        )
        self.narrow = SilentLinear(width, channels)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = self.norm(self.widen(x.transpose(1, 2))).transpose(1, 2)
        for block in self.blocks:
            y = block(y, time)
        return delayed(self, x, y.shape[2], time) + self.narrow(y.transpose(1, 2)).transpose(1, 2)

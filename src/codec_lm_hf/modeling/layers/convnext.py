"""ConvNeXt blocks along time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv1d
from .streaming import TimeContext, delayed


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution along time, then a two-layer perceptron per step, around a skip connection.

    Args:
        channels: input and output channels.
        kernel_size: of the depthwise convolution.
        expansion: the perceptron's hidden layer has `expansion * channels` units.
        layer_scale: initial gain of the new part, learnt per channel.
        causal: no look-ahead.

    Source: Liu et al., 2022, "A ConvNet for the 2020s"; along time as in Vocos (Siuzdak, 2023).
    """

    def __init__(
        self, channels: int, kernel_size: int, expansion: int, layer_scale: float, causal: bool = True
    ) -> None:
        super().__init__()
        self.depthwise = Conv1d(channels, channels, kernel_size, groups=channels, causal=causal)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.contract = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.initial_scale = layer_scale

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = self.depthwise(x, time).transpose(1, 2)
        y = self.contract(F.gelu(self.expand(self.norm(y)))) * self.scale
        return delayed(self, x, y.shape[1], time) + y.transpose(1, 2)

"""The snake activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from . import cpu_inference


class Snake(nn.Module):
    """`x + sin(alpha * x) ** 2 / alpha` with a learnt `alpha` per channel: a periodic bias for audio.

    Args:
        channels: of the input `(batch, channels, ..., steps)`.

    Source: Ziyin et al., 2020, "Neural Networks Fail to Learn Periodic Functions and How to Fix It"; `Snake1d` in
    `dac/nn/layers.py`, whose small constant in the denominator is kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def reset(self) -> None:
        init.ones_(self.alpha)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim > 3:
            return self(x.flatten(2)).view_as(x)
        inverse = (self.alpha + 1e-9).reciprocal()
        if cpu_inference.applies(x):
            return cpu_inference.snake(x, self.alpha, inverse)
        return torch.addcmul(x, inverse, (self.alpha * x).sin().square())

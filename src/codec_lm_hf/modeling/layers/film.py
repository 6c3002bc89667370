"""Feature-wise linear modulation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SwitchedFiLM(nn.Module):
    """Scales and shifts channels depending on a switch, given per row and step or for all at once.

    It starts as the identity in both positions.

    Args:
        channels: channels to modulate.

    Source: SoundStream, section III-F: a linear layer over the one-hot switch gives scale and shift of each channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(2, 2 * channels)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(self, x: Tensor, on: bool | Tensor) -> Tensor:
        """Modulate `x` `(batch, channels, steps)`; `on` is a bool or a bool tensor `(batch,)` or `(batch, steps)`."""
        switch = torch.as_tensor(on, device=x.device).long()
        switch = switch.reshape(switch.shape + (1,) * (2 - switch.ndim)).expand(x.shape[0], -1)
        scale, shift = self.modulation(F.one_hot(switch, 2).to(x.dtype)).transpose(1, 2).chunk(2, dim=1)
        return x * scale + shift

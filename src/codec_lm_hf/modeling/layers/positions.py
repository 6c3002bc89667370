"""Where in time a step stands."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_positions(positions: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """Positions `(...)` to embeddings `(..., dim)`: all cosines, then all sines, of periods growing to `max_period`.

    Source: `create_sin_embedding` in `encodec/modules/transformer.py`. `dim` is even and at least 4.
    """
    half = dim // 2
    exponents = torch.arange(half, device=positions.device) / (half - 1)
    phases = positions[..., None] / max_period**exponents
    return torch.cat([phases.cos(), phases.sin()], dim=-1)


def interleaved_positions(positions: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """Positions `(...)` to embeddings `(..., dim)`: sine and cosine of each period in turn.

    Source: "Attention Is All You Need" (Vaswani et al., 2017), section 3.5. `dim` is even.
    """
    # In the order in which it is usually computed, for its last float bits: models can be sensitive to them.
    frequencies = torch.exp(torch.arange(0, dim, 2, device=positions.device) * -(math.log(max_period) / dim))
    phases = positions[..., None] * frequencies
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(-2)


class ScaledPositions(nn.Module):
    """Adds sinusoidal positions times a number that the model knows, then drops out.

    Args:
        dropout: in training.
        trainable: whether the number is learned; where it is not, a checkpoint may still hold any.

    Source: `SinePositionalEmbedding` in `valle/modules/embedding.py` of lifeiteng/vall-e.
    """

    def __init__(self, dropout: float = 0.0, trainable: bool = True) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1), requires_grad=trainable)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """`x` `(batch, steps, dim)` at `positions` `(batch or 1, steps)`, which may restart within a row."""
        return self.dropout(x + self.alpha * interleaved_positions(positions, x.shape[-1]).to(x.dtype))

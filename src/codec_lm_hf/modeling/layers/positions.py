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


def rotation(places: Tensor, dim: int, max_period: float = 10_000) -> tuple[Tensor, Tensor]:
    """Places `(batch or 1, steps)` to the cosines and sines of their angles, each `(batch or 1, 1, steps, dim / 2)`.

    Source: RoFormer (Su et al., 2021), section 3.2. `dim` is even.
    """
    frequencies = max_period ** -(torch.arange(0, dim, 2, device=places.device) / dim)
    angles = places[:, None, :, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor], adjacent: bool = False) -> Tensor:
    """Turn pairs of channels, so that products of queries and keys know how far these are from each other.

    Args:
        x: queries or keys, `(batch, heads, steps, dim)`.
        turn: what `rotation` says of their places.
        adjacent: a pair are neighbours, as in the paper; otherwise one of each half, as in GPT-NeoX and Llama.
    """
    cos, sin = (part.to(x.dtype) for part in turn)
    if adjacent:
        first, second = x[..., 0::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class RelativePositions(nn.Module):
    """A bias of attention scores that each head learns, for how far one step is from another.

    Distances share a bias the more widely the larger they are.

    Args:
        num_heads: of the attention.
        num_buckets: biases of each head.
        max_distance: from which on all share one.
        causal: later steps are not seen, so that all biases are for earlier ones.

    Source: T5 (Raffel et al., 2020), section 2.1, in which all layers share one table.
    """

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, causal: bool = True) -> None:
        super().__init__()
        self.bias = nn.Embedding(num_buckets, num_heads)
        self.max_distance = max_distance
        self.causal = causal

    def forward(self, places: Tensor, steps: int) -> Tensor:
        """What the last steps add to their scores.

        Args:
            places: `(batch or 1, all steps)`, where each stands.
            steps: that look.

        Returns:
            `(batch or 1, heads, steps, all steps)`.
        """
        distance = places[:, -steps:, None] - places[:, None]
        return self.bias(self._buckets(distance)).permute(0, 3, 1, 2)

    def _buckets(self, distance: Tensor) -> Tensor:
        """How many steps back, to the number of its bucket: one each up to half of them, then by logarithm."""
        count, offset = self.bias.num_embeddings, 0
        if self.causal:
            distance = distance.clamp(min=0)
        else:
            count //= 2
            offset, distance = count * (distance < 0), distance.abs()
        near = count // 2
        far = torch.log(distance.clamp(min=1) / near) / math.log(self.max_distance / near) * (count - near)
        return offset + torch.where(distance < near, distance, (near + far.long()).clamp(max=count - 1))


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

"""Where in time a step stands."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoidal_positions(positions: Tensor, dim: int, max_period: float = 10_000) -> Tensor:
    """Positions `(...)` to embeddings `(..., dim)`: all cosines, then all sines, of periods growing to `max_period`.

    Source: `create_sin_embedding` in `encodec/modules/transformer.py`. `dim` is even and at least 4.
    """
    half = dim // 2
    exponents = torch.arange(half, device=positions.device) / (half - 1)
    phases = positions[..., None] / max_period**exponents
    return torch.cat([phases.cos(), phases.sin()], dim=-1)

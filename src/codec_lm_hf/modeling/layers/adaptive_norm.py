"""Layer norm whose scale and shift depend on a condition."""

from __future__ import annotations

from torch import Tensor, nn


class AdaptiveLayerNorm(nn.Module):
    """A layer norm, then a scale and a shift that a linear layer makes of a condition.

    Args:
        dim: of input and condition.

    Source: `AdaptiveLayerNorm` in `valle/modules/transformer.py` of lifeiteng/vall-e (VALL-E, section 4.2.2).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise `x` `(batch, steps, dim)` under `condition` `(batch or 1, 1, dim)`."""
        scale, shift = self.projection(condition).chunk(2, dim=-1)
        return scale * self.norm(x) + shift

"""Tables of codes through a narrower space, in which codes that sound alike are near each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear


class FactorizedEmbedding(nn.Module):
    """An embedding whose table is narrower than what it gives.

    Args:
        size: entries.
        dim: of the result.
        inner: width of the table.
    """

    def __init__(self, size: int, dim: int, inner: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, inner))
        self.projection = Linear(inner, dim, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """`(...)` to `(..., dim)`."""
        return self.projection(F.embedding(ids, self.weight))


class FactorizedHead(nn.Module):
    """Logits by the likeness of a projection to each entry of a table.

    Args:
        dim: of what comes in.
        size: entries.
        inner: width of the table.
    """

    def __init__(self, dim: int, size: int, inner: int) -> None:
        super().__init__()
        self.projection = Linear(dim, inner, bias=False)
        self.weight = nn.Parameter(torch.randn(size, inner))

    def forward(self, x: Tensor) -> Tensor:
        """`(..., dim)` to `(..., size)`."""
        return F.linear(self.projection(x), self.weight)

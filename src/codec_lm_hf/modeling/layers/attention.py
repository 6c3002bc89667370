"""Multi-head attention, and which steps may see which."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def window_mask(past: int, steps: int, window: int | None = None, device: torch.device | None = None) -> Tensor:
    """What each of `steps` new steps may attend to among `past` earlier steps and the new ones themselves.

    Args:
        past: steps that went before.
        steps: new steps.
        window: how many steps back a step sees; `None`: all.
        device: of the mask.

    Returns:
        `(steps, past + steps)` bool, true where attention is allowed: to the step itself and to earlier ones.
    """
    queries = torch.arange(past, past + steps, device=device)[:, None]
    distance = queries - torch.arange(past + steps, device=device)
    return distance >= 0 if window is None else (distance >= 0) & (distance <= window)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with the packed parameters of `torch.nn.MultiheadAttention`.

    Keys and values are made by their own method, so that a caller can keep them from call to call.

    Args:
        dim: of queries, memory and output; a multiple of `num_heads`.
        num_heads: each sees `dim / num_heads` channels.
        dropout: on the attention weights, in training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Memory `(batch, steps, dim)` to keys and values, each `(batch, heads, steps, dim / heads)`."""
        dim = memory.shape[-1]
        # One product for both: its last float bits, on which the entropy coder depends, are those of the original.
        keys, values = F.linear(memory, self.in_proj.weight[dim:], self.in_proj.bias[dim:]).chunk(2, dim=-1)
        return self._heads(keys), self._heads(values)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            queries: `(batch, steps, dim)`.
            keys, values: from `keys_and_values`.
            mask: bool, broadcastable to `(batch, heads, steps, memory steps)`, true where attention is allowed.

        Returns:
            `(batch, steps, dim)`.
        """
        dim = queries.shape[-1]
        queries = self._heads(F.linear(queries, self.in_proj.weight[:dim], self.in_proj.bias[:dim]))
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

"""Multi-head attention, and which steps may see which."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, WeightConverter
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .linear import Float16Linear, Int8Linear, Linear
from .positions import rotate

Segment = tuple[int, Literal["full", "causal"]]


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


def segment_mask(
    segments: Sequence[Segment], valid: Tensor | None = None, device: torch.device | None = None
) -> Tensor:
    """What the steps of a sequence of segments may attend to: to all earlier segments, and to their own.

    Args:
        segments: length of each, and whether its steps see all of it (`"full"`) or up to themselves (`"causal"`).
        valid: `(batch, steps)` bool, false where nothing may look: padding.
        device: of the mask, where `valid` is not given.

    Returns:
        `(batch or 1, 1, steps, steps)` bool, true where attention is allowed.
    """
    device = device if valid is None else valid.device
    last_seen, start = [], 0
    for length, kind in segments:
        end = start + length
        own = torch.arange(start, end, device=device)
        last_seen.append(own if kind == "causal" else torch.full_like(own, end - 1))
        start = end
    mask = torch.arange(start, device=device) <= torch.cat(last_seen)[:, None]
    return mask[None, None] if valid is None else mask & valid[:, None, None]


def biased(bias: Tensor, mask: Tensor | None) -> Tensor:
    """What is added to scores: `bias` where `mask` (bool) allows attention, elsewhere the least number there is."""
    return bias if mask is None else bias.masked_fill(~mask, torch.finfo(bias.dtype).min)


def eager_attention(
    module: nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention by plain products; transformers asks each model for it under the name `"eager"`."""
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    if attention_mask is not None:
        hidden = torch.finfo(scores.dtype).min
        is_bias = attention_mask.is_floating_point()
        scores = scores + attention_mask if is_bias else scores.masked_fill(~attention_mask, hidden)
    weights = F.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype), dropout, module.training)
    return (weights @ values).transpose(1, 2), weights


class Attend(nn.Module):
    """The attention function that a model's configuration chooses, as a module: what it returns can be hooked.

    Args:
        dropout: on the attention weights, in training.
        config: of the model, whose `attn_implementation` chooses; without one it is `"sdpa"`.
    """

    def __init__(self, dropout: float = 0.0, config: PreTrainedConfig | None = None) -> None:
        super().__init__()
        self.dropout = dropout
        self.config = config

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Sums of values `(batch, steps, heads, dim / heads)`, and their weights where the function has such."""
        implementation = "sdpa" if self.config is None else self.config._attn_implementation
        function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        dropout = self.dropout if self.training else 0.0
        return function(self, queries, keys, values, attention_mask=mask, dropout=dropout, is_causal=False)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with the packed parameters of `torch.nn.MultiheadAttention`.

    Keys and values are made by their own method, so that a caller can keep them from call to call.

    Args:
        dim: of queries, memory and output; a multiple of `num_heads`.
        num_heads: each sees `dim / num_heads` channels.
        dropout: on the attention weights, in training.
        bias: of the projections.
        config: see `Attend`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        config: PreTrainedConfig | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.function = Attend(dropout, config)
        self.in_proj = Linear(dim, 3 * dim, bias=bias, parts=3)
        self.out_proj = Linear(dim, dim, bias=bias)

    def queries_keys_values(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None = None, adjacent: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Steps `(batch, steps, dim)` that attend to each other, in one product: see `queries`, `keys_and_values`.

        Args:
            x: the steps.
            turn, adjacent: of rotary positions; see `positions.rotate`.
        """
        queries, keys, values = self._heads(self.in_proj(x)).chunk(3, dim=1)
        if turn is None:
            return queries, keys, values
        return rotate(queries, turn, adjacent), rotate(keys, turn, adjacent), values

    def queries(self, x: Tensor) -> Tensor:
        """Steps `(batch, steps, dim)` to queries `(batch, heads, steps, dim / heads)`."""
        return self._heads(self._project(x, slice(x.shape[-1])))

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Memory `(batch, steps, dim)` to keys and values, each `(batch, heads, steps, dim / heads)`."""
        # One product for both: its last float bits, on which the entropy coder depends, are those of the original.
        return self._heads(self._project(memory, slice(memory.shape[-1], None))).chunk(2, dim=1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            queries, keys, values: each `(batch, heads, steps, dim / heads)`.
            mask: broadcastable to `(batch, heads, steps, memory steps)`: bool, true where attention is allowed, or
                numbers that are added to the scores.

        Returns:
            `(batch, steps, dim)`.
        """
        attended, _ = self.function(queries, keys, values, mask)
        return self.out_proj(attended.flatten(2))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """`attend` with the queries of steps `(batch, steps, dim)`."""
        return self.attend(self.queries(queries), keys, values, mask)

    def _project(self, x: Tensor, rows: slice) -> Tensor:
        if isinstance(self.in_proj, (Linear, Int8Linear, Float16Linear)):
            return self.in_proj(x, rows)
        # Whoever has put another layer in its place, an adapter of PEFT for one, wants to see it called.
        return self.in_proj(x)[..., rows]

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)


@functools.cache
def read_separate_projections(model_type: str) -> None:
    """Let models of this type load checkpoints whose queries, keys and values are projected by layers of their own.

    These are `q_proj`, `k_proj` and `v_proj` in the place of `MultiHeadAttention.in_proj`.
    """
    names = [f"attention.{name}_proj.weight" for name in "qkv"]
    packed = WeightConverter(names, "attention.in_proj.weight", [Concatenate(dim=0)])
    register_checkpoint_conversion_mapping(model_type, [packed], overwrite=True)

"""A causal transformer that can be run step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import MultiHeadAttention, window_mask
from .positions import sinusoidal_positions


@dataclass
class TransformerState:
    """What a transformer remembers of earlier steps.

    Attributes:
        layers: for each layer what its attention reads, `(batch, steps, dim)`.
        offset: position of the next step.
    """

    layers: tuple[Tensor, ...]
    offset: int = 0


class TransformerLayer(GradientCheckpointingLayer):
    """Self-attention and a feed-forward part, each with a residual connection and a layer norm.

    Args:
        dim: of the steps.
        num_heads: of the attention.
        feedforward: hidden size of the feed-forward part.
        activation: its activation, by its name in transformers.
        norm_first: normalise the input of each part instead of its sum with the residual connection.
        dropout: in training, on attention weights, hidden activations and the output of each part.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward: int,
        activation: str = "gelu",
        norm_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = MultiHeadAttention(dim, num_heads, dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward_in = nn.Linear(dim, feedforward)
        self.feedforward_out = nn.Linear(feedforward, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """One layer over new steps.

        Args:
            x: `(batch, steps, dim)`.
            past: `(batch, past steps, dim)`, inputs of the attention at earlier steps.
            mask: `(steps, past steps + steps)` bool.

        Returns:
            The layer's output, and `past` with the new inputs of the attention appended.
        """
        inputs = self.attention_norm(x) if self.norm_first else x
        memory = torch.cat([past, inputs], dim=1)
        attended = self.dropout(self.attention(inputs, *self.attention.keys_and_values(memory), mask))
        if self.norm_first:
            x = x + attended
            return x + self._feedforward(self.feedforward_norm(x)), memory
        x = self.attention_norm(x + attended)
        return self.feedforward_norm(x + self._feedforward(x)), memory

    def _feedforward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.feedforward_in(x)))
        return self.dropout(self.feedforward_out(hidden))


class StreamingTransformer(nn.Module):
    """Layers with sinusoidal positions and a window of attention, in one pass or in pieces of any length.

    Args:
        dim: of the steps.
        num_layers: of them.
        window: how many steps back a step sees; `None`: all.
        max_period: of the positions, in steps.
        norm_in: a layer norm before the positions are added.
        **layer: see `TransformerLayer`.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        window: int | None = None,
        max_period: float = 10_000,
        norm_in: bool = False,
        **layer,
    ) -> None:
        super().__init__()
        self.window = window
        self.max_period = max_period
        self.norm_in = nn.LayerNorm(dim) if norm_in else nn.Identity()
        self.layers = nn.ModuleList([TransformerLayer(dim, **layer) for _ in range(num_layers)])

    def forward(self, x: Tensor, state: TransformerState | None = None) -> tuple[Tensor, TransformerState]:
        """New steps `(batch, steps, dim)` after those of the state: their outputs, and the state to go on from."""
        if state is None:
            state = TransformerState((x[:, :0],) * len(self.layers))
        steps = x.shape[1]
        positions = torch.arange(state.offset, state.offset + steps, device=x.device)
        x = self.norm_in(x)
        x = x + sinusoidal_positions(positions, x.shape[-1], self.max_period).to(x.dtype)
        mask = window_mask(state.layers[0].shape[1], steps, self.window, x.device)
        memories = []
        for layer, past in zip(self.layers, state.layers, strict=True):
            x, memory = layer(x, past, mask)
            memories.append(memory if self.window is None else memory[:, -self.window :])
        return x, TransformerState(tuple(memories), state.offset + steps)

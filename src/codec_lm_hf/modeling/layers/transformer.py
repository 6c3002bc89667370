"""Transformers: over segments with a cache, and step by step within a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils.output_capturing import OutputRecorder

from .adaptive_norm import AdaptiveLayerNorm
from .attention import MultiHeadAttention, biased, window_mask
from .linear import Linear
from .positions import RelativePositions, rotation, sinusoidal_positions


def _norm(dim: int, adaptive: bool) -> nn.Module:
    return AdaptiveLayerNorm(dim) if adaptive else nn.LayerNorm(dim)


def _normalise(norm: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
    return norm(x) if condition is None else norm(x, condition)


class TransformerLayer(GradientCheckpointingLayer):
    """Self-attention, perhaps cross-attention, and a feed-forward part, each with a residual connection and a norm.

    Args:
        dim: of the steps.
        num_heads: of the attention.
        feedforward: hidden size of the feed-forward part.
        activation: its activation, by its name in transformers.
        norm_first: normalise the input of each part instead of its sum with the residual connection.
        dropout: in training, on attention weights, hidden activations and the output of each part.
        attention_dropout, activation_dropout: another one for attention weights, and for hidden activations; `None`:
            the same.
        bias: of the linear layers.
        adaptive: norms that depend on a condition.
        cross_attention: attend to a memory between the two parts.
        adjacent: which channels rotary positions turn; see `positions.rotate`.
        index: of the layer, for the cache.
        config: of the model; see `MultiHeadAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward: int,
        activation: str = "gelu",
        norm_first: bool = False,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        activation_dropout: float | None = None,
        bias: bool = True,
        adaptive: bool = False,
        cross_attention: bool = False,
        adjacent: bool = False,
        index: int = 0,
        config: PreTrainedConfig | None = None,
    ) -> None:
        super().__init__()
        self.index = index
        self.adjacent = adjacent
        self.norm_first = norm_first
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.attention = MultiHeadAttention(dim, num_heads, attention_dropout, bias, config)
        self.attention_norm = _norm(dim, adaptive)
        self.cross_attention = None
        if cross_attention:
            self.cross_attention = MultiHeadAttention(dim, num_heads, attention_dropout, bias, config)
            self.cross_attention_norm = _norm(dim, adaptive)
        self.feedforward_in = Linear(dim, feedforward, bias=bias)
        self.feedforward_out = Linear(feedforward, dim, bias=bias)
        self.feedforward_norm = _norm(dim, adaptive)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(dropout if activation_dropout is None else activation_dropout)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """One layer over new steps; the arguments are those of `Transformer`, `turn` that of `positions.rotate`."""
        cache, cross = past_key_values, None
        if isinstance(cache, EncoderDecoderCache):
            cache, cross = cache.self_attention_cache, cache

        def attend(inputs: Tensor) -> Tensor:
            queries, keys, values = self.attention.queries_keys_values(inputs, turn, self.adjacent)
            if cache is not None:
                keys, values = cache.update(keys, values, self.index)
            return self.attention.attend(queries, keys, values, mask)

        def attend_to_memory(inputs: Tensor) -> Tensor:
            return self.cross_attention(inputs, *self._memory_keys_and_values(memory, cross), memory_mask)

        x = self._add(x, self.attention_norm, attend, condition)
        if self.cross_attention is not None:
            x = self._add(x, self.cross_attention_norm, attend_to_memory, condition)
        return self._add(x, self.feedforward_norm, self._feedforward, condition)

    def _add(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor], condition: Tensor | None) -> Tensor:
        """`x` and what a part makes of it, normalised before or after."""
        y = part(_normalise(norm, x, condition) if self.norm_first else x)
        x = x + (self.dropout(y) if self.training else y)
        return x if self.norm_first else _normalise(norm, x, condition)

    def _memory_keys_and_values(self, memory: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        """Those of the memory, which are made once and kept."""
        if cache is None:
            return self.cross_attention.keys_and_values(memory)
        if cache.is_updated.get(self.index):
            kept = cache.cross_attention_cache.layers[self.index]
            return kept.keys, kept.values
        cache.is_updated[self.index] = True
        made = self.cross_attention.keys_and_values(memory)
        return cache.cross_attention_cache.update(*made, self.index)

    def _feedforward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.feedforward_in(x))
        return self.feedforward_out(self.activation_dropout(hidden) if self.training else hidden)


class Transformer(nn.Module):
    """Layers over whatever the caller has embedded, with the positions that it has added, or with those of attention.

    Args:
        dim: of the steps.
        num_layers: of them.
        num_heads: of the attention.
        final_norm: a norm after the last layer.
        positions: `None`: attention knows of none; `"rotary"`: it turns queries and keys; `"relative"`: it adds a bias
            for distances, which all layers share.
        max_period: of rotary positions, in steps.
        **layer: see `TransformerLayer`.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        final_norm: bool = True,
        adaptive: bool = False,
        positions: Literal["rotary", "relative"] | None = None,
        max_period: float = 10_000,
        **layer,
    ) -> None:
        super().__init__()
        self.positions, self.max_period, self.head_dim = positions, max_period, dim // num_heads
        self.relative_positions = RelativePositions(num_heads) if positions == "relative" else None
        self.layers = nn.ModuleList(
            [TransformerLayer(dim, num_heads, index=index, adaptive=adaptive, **layer) for index in range(num_layers)]
        )
        self.norm = _norm(dim, adaptive) if final_norm else None

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        condition: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """New steps `(batch, steps, dim)` after those of the cache.

        Args:
            x: the new steps.
            mask: bool, broadcastable to `(batch, heads, steps, cached + new steps)`: what each new step sees, as
                `segment_mask` gives it; `None`: all. Nothing sees the empty places of a static cache.
            condition: `(batch or 1, 1, dim)` of adaptive norms.
            memory: `(batch, memory steps, dim)` of cross-attention; not needed again once the cache has seen it.
            memory_mask: bool, broadcastable to `(batch, heads, steps, memory steps)`.
            past_key_values: cache of transformers, which is added to; with cross-attention an `EncoderDecoderCache`.
            places: `(batch or 1, cached + new steps)`, where each step stands, for rotary and relative positions.

        Returns:
            `(batch, steps, dim)`.
        """
        turn = (
            rotation(places[:, -x.shape[1] :], self.head_dim, self.max_period) if self.positions == "rotary" else None
        )
        if self.relative_positions is not None:
            mask = biased(self.relative_positions(places, x.shape[1]).to(x.dtype), mask)
        room = -1 if past_key_values is None else past_key_values.get_max_length(0)
        if room > 0:
            hidden = torch.finfo(mask.dtype).min if mask.is_floating_point() else False
            mask = F.pad(mask, (0, room - mask.shape[-1]), value=hidden)
        for layer in self.layers:
            # What needs gradients goes by place: recomputation by torch's re-entrant checkpoints sees only that.
            x = layer(x, condition, memory, mask, memory_mask=memory_mask, past_key_values=past_key_values, turn=turn)
        return x if self.norm is None else _normalise(self.norm, x, condition)


def recorded(part: str | None = None, prefix: str = "") -> dict[str, OutputRecorder]:
    """What `output_hidden_states` and `output_attentions` of a model record: its `_can_record_outputs`.

    Args:
        part: the model's attribute below which the transformer is; `None`: it has one only.
        prefix: of the outputs' names.
    """
    # With leading dots, or those of cross-attention would count among those of self-attention.
    names = {"attentions": ".attention.function", "cross_attentions": ".cross_attention.function"}
    weights = {
        prefix + output: OutputRecorder(None, index=1, layer_name=part, class_name=name)
        for output, name in names.items()
    }
    return {prefix + "hidden_states": OutputRecorder(TransformerLayer, layer_name=part), **weights}


@dataclass
class TransformerState:
    """What a streaming transformer remembers of earlier steps.

    Attributes:
        layers: for each layer what its attention reads, `(batch, steps, dim)`.
        offset: position of the next step.
    """

    layers: tuple[Tensor, ...]
    offset: int = 0


class StreamingTransformerLayer(TransformerLayer):
    """A layer that keeps the inputs of its attention instead of keys and values.

    Its numbers have the last float bits of the original of EnCodec's entropy model, on which the coder depends.
    """

    def forward(self, x: Tensor, past: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """One layer over new steps.

        Args:
            x: `(batch, steps, dim)`.
            past: `(batch, past steps, dim)`, inputs of the attention at earlier steps.
            mask: `(steps, past steps + steps)` bool.

        Returns:
            The layer's output, and `past` with the new inputs of the attention appended.
        """
        memory = torch.cat([past, self.attention_norm(x) if self.norm_first else x], dim=1)

        def attend(inputs: Tensor) -> Tensor:
            return self.attention(inputs, *self.attention.keys_and_values(memory), mask)

        x = self._add(x, self.attention_norm, attend, None)
        return self._add(x, self.feedforward_norm, self._feedforward, None), memory


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
        self.layers = nn.ModuleList([StreamingTransformerLayer(dim, **layer) for _ in range(num_layers)])

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

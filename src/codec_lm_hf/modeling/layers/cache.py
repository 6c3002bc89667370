"""Caches of keys and values, which are written in place."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationConfig, PreTrainedConfig, StaticCache
from transformers.cache_utils import DynamicLayer

# Steps by which the memory grows: to copy everything so rarely costs little, and no more than this stands empty.
_ROOM = 64


class GrowingLayer(DynamicLayer):
    """A layer of `GrowingCache`: its keys and values are views of memory that has room for more steps."""

    _room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append `(batch, heads, steps, dim)` each, and give all there are."""
        if torch.is_grad_enabled() and key_states.requires_grad:
            return super().update(key_states, value_states)  # gradients need the keys that they were made of
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self._has_room(end):
            old = (self.keys, self.values) if start else (key_states[..., :0, :], value_states[..., :0, :])
            self._room = tuple(self._grow(part, end + _ROOM - end % _ROOM) for part in old)
        keys, values = self._room
        keys[..., start:end, :] = key_states
        values[..., start:end, :] = value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _has_room(self, end: int) -> bool:
        if self._room is None or self._room[0].shape[-2] < end:
            return False
        # Whoever has put other tensors in place of the views, to pick rows for one, has left the memory.
        return self.keys.data_ptr() == self._room[0].data_ptr() and self.keys.shape[:2] == self._room[0].shape[:2]

    @staticmethod
    def _grow(part: Tensor, steps: int) -> Tensor:
        grown = part.new_empty(*part.shape[:-2], steps, part.shape[-1])
        grown[..., : part.shape[-2], :] = part
        return grown


class GrowingCache(DynamicCache):
    """transformers' `DynamicCache`, but a new step does not copy those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = GrowingLayer


def new_cache(
    config: PreTrainedConfig, options: GenerationConfig, length: int, memory: int | None = None
) -> Cache | None:
    """An empty cache, of the kind that `options` name.

    Args:
        config: of the model.
        options: `use_cache`, `cache_implementation` and `max_cache_len`.
        length: steps that it holds at most.
        memory: steps of what cross-attention attends to; `None`: there is none.
    """
    if not options.use_cache:
        return None
    if options.cache_implementation == "static":
        cache = StaticCache(config, max(length, options.max_cache_len or 0))
        return cache if memory is None else EncoderDecoderCache(cache, StaticCache(config, memory))
    return GrowingCache() if memory is None else EncoderDecoderCache(GrowingCache(), DynamicCache())

"""Numbers that keep their precision when a model is cast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

HALF_TYPES = (torch.float16, torch.bfloat16)


def at_least_float32(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`fn`, as `torch.nn.Module._apply` takes it, but what it would make half precision becomes float32, unrounded."""

    def apply(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return tensor.to(moved.device, torch.float32) if moved.dtype in HALF_TYPES else moved

    return apply


def as_halves(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` as `dtype`, half precision, if it is float32 and no value of it changes."""
    if tensor.dtype != torch.float32:
        return tensor
    halves = tensor.to(dtype)
    return halves if torch.equal(halves.float(), tensor) else tensor


class Float32Buffers(nn.Module):
    """A module whose tensors, and its children's, are float32 whatever the model's dtype is.

    Neither `model.to(dtype)` nor `model.half()` changes that, nor the dtype in which transformers builds a model.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def in_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not tensor.is_floating_point() or moved.dtype == torch.float32:
                return moved
            return tensor.to(moved.device, torch.float32)

        return super()._apply(in_float32, recurse)

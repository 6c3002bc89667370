"""Numbers that keep their precision when a model is cast."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Float32Buffers(nn.Module):
    """A module whose tensors, and its children's, keep their type in `model.to(dtype)` and `model.half()`."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def keep_type(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if tensor.is_floating_point() and moved.dtype != tensor.dtype else moved

        return super()._apply(keep_type, recurse)

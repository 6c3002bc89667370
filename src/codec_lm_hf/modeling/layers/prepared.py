"""Values that inference derives from weights once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _tables(module: nn.Module) -> list[dict[str, Tensor | None]]:
    return [table for part in module.modules() for table in (part._parameters, part._buffers)]


class _Kept:
    """What a module prepared, derived again only after one of its tensors was changed, or another took its place.

    Torch counts changes, but not those that are written into `Parameter.data`. A copy of it, or a pickle, is empty.
    """

    def __init__(self) -> None:
        # The tables of tensors, their state, the tensors' memory, and the values: in one, for other threads.
        self._found: tuple | None = None

    def __call__(self, module: Prepared) -> Any:
        found = self._found
        if torch.compiler.is_compiling():
            return module.prepare() if found is None else found[3]
        tables = _tables(module) if found is None else found[0]
        try:
            tensors = [tensor for table in tables for tensor in table.values() if tensor is not None]
            state = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        except RuntimeError:  # made in inference mode, or wrapped by `torch.func`: torch counts no changes of these
            return module.prepare()
        if found is None or found[1] != state:
            # As long as the memory is held, no other tensor lies at its address.
            held = [tensor.detach() for tensor in tensors]
            with torch.no_grad():
                self._found = found = tables, state, held, module.prepare()
        return found[3]

    def __reduce__(self) -> tuple:
        return _Kept, ()


class Prepared(nn.Module):
    """A module with values derived from its weights, computed anew at each call, or once after `fuse()`.

    What `fuse()` kept follows the weights, and is forgotten in training, which changes them at each step.
    """

    _kept: _Kept | None = None

    def prepare(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define prepare.")

    @property
    def prepared(self) -> Any:
        return self.prepare() if self.training or self._kept is None else self._kept(self)

    def fuse(self) -> None:
        """Derive the values once, for inference."""
        self._kept = _Kept()
        self._kept(self)

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            self._kept = None
        return super().train(mode)

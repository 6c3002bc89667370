"""Values that inference derives from weights once."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Prepared(nn.Module):
    """A module with values derived from its weights, computed anew at each call, or once after `fuse()`.

    What `fuse()` kept is forgotten where the weights may change: in training, and when others are loaded.
    """

    _fused: Any = None

    def prepare(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define prepare.")

    @property
    def prepared(self) -> Any:
        return self.prepare() if self.training or self._fused is None else self._fused

    @torch.no_grad()
    def fuse(self) -> None:
        """Derive the values once, for inference."""
        self._fused = self.prepare()

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            self._fused = None
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True) -> nn.Module:
        self._fused = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._fused = None
        super()._load_from_state_dict(*args, **kwargs)

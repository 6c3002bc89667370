"""Weights of models and of files."""

from __future__ import annotations

import platform

import pytest
import torch
from torch import Tensor, nn

needs_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="elsewhere torch cannot multiply with weights in half precision",
)

Weights = nn.Module | dict[str, Tensor]


def assert_holds(model: Weights, expected: Weights) -> None:
    """Every weight that is expected is there, in its dtype and to the last bit."""
    found, wanted = (given.state_dict() if isinstance(given, nn.Module) else given for given in (model, expected))
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name

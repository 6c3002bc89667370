"""Linear layers that are fast for the few rows of a step of generation, where a CPU mostly waits for their weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu_inference

# More rows are faster with whole weights in place of eight bits: then arithmetic takes longer than reading.
_FEW_ROWS = 32
# What torch's kernel for eight bits takes at a time, and does not check.
_BLOCK = 16


class Linear(nn.Linear):
    """`torch.nn.Linear` that can give some of its outputs only."""

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """`x` `(..., in_features)` to `(..., out_features)`; `rows`: only these outputs."""
        weight, bias = self.weight, self.bias
        if rows is not None:
            weight, bias = weight[rows], None if bias is None else bias[rows]
        if x.ndim == 3 and x.shape[1] == 1 and cpu_inference.applies(x):
            return cpu_inference.linear(x[:, 0], weight, bias)[:, None]
        return F.linear(x, weight, bias)


class Int8Linear(nn.Module):
    """`torch.nn.Linear` with the weights rounded to eight bits, symmetrically and with a scale for each output.

    Inputs are as they were, but for few rows rounded to bfloat16, which torch's kernel for such weights multiplies.
    It has no gradient.

    Args:
        linear: to take the weights of.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).to(torch.bfloat16)
        rounded = (weight / scale.float()[:, None]).round().clamp(-127, 127)
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """`x` `(..., in_features)` to `(..., out_features)`; `rows`: only these outputs."""
        rows = slice(None) if rows is None else rows
        weight, scale = self.weight[rows], self.scale[rows].to(torch.bfloat16)
        bias = None if self.bias is None else self.bias[rows]
        features = x.shape[-1]
        if x.device.type != "cpu" or x.numel() > _FEW_ROWS * features or features % _BLOCK:
            return F.linear(x, weight.to(x.dtype) * scale.to(x.dtype)[:, None], bias)
        flat = x.reshape(-1, features).to(torch.bfloat16)
        y = torch._weight_int8pack_mm(flat, weight, scale).to(x.dtype).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias


def to_int8(module: nn.Module) -> None:
    """Put an `Int8Linear` in the place of every linear layer below `module`."""
    for name, part in module.named_children():
        if type(part) in (nn.Linear, Linear):
            setattr(module, name, Int8Linear(part))
        else:
            to_int8(part)

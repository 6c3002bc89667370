"""Linear layers that are fast for the few rows of a step of generation, where a CPU mostly waits for their weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu_inference

# More rows are faster with whole weights in place of eight bits: then arithmetic takes longer than reading.
_FEW_ROWS = 32
# What torch's kernel for eight bits takes at a time, and does not check.
_BLOCK = 16
# Of torch's engines for quantized models, those that multiply with weights in half precision: not on ARM.
_FLOAT16_ENGINES = ("x86", "fbgemm")


class Linear(nn.Linear):
    """`torch.nn.Linear` that can give some of its outputs only.

    Args:
        in_features, out_features, bias: as in torch.
        parts: equal parts of the outputs that are asked for by themselves.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, parts: int = 1) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.parts = parts

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


class Float16Linear(nn.Module):
    """`torch.nn.Linear` that keeps its weights in half precision and multiplies in float32, on a CPU.

    Half of the bytes are read, and results are the same up to the order of sums. It has no gradient.

    Args:
        linear: to take the weights of; see `possible`.
    """

    # The dtype of a linear layer's weight is what T5 of transformers wants to know of its own, if there is one.
    weight = None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.nbytes = 2 * linear.weight.numel()
        self._outputs = range(linear.out_features)
        self._size = linear.out_features // getattr(linear, "parts", 1)
        weights = linear.weight.detach().split(self._size)
        biases = [None] * len(weights) if linear.bias is None else linear.bias.detach().split(self._size)
        # torch's own layer of this kind is for quantized models only; this is the function below it.
        self._packed = [torch.ops.quantized.linear_prepack_fp16(*pair) for pair in zip(weights, biases, strict=True)]

    @staticmethod
    def possible(linear: nn.Linear) -> bool:
        """Whether there can be one: torch has the function here, and half precision holds every weight as it is."""
        weight = linear.weight.detach()
        return (
            torch.backends.quantized.engine in _FLOAT16_ENGINES
            and weight.is_cpu
            and weight.dtype == torch.float32
            and torch.equal(weight, weight.half().float())
        )

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """`x` `(..., in_features)` to `(..., out_features)`; `rows`: only these outputs."""
        wanted = self._outputs[slice(None) if rows is None else rows]
        first, last = wanted.start // self._size, -(-wanted.stop // self._size)
        given = x.float()
        parts = [torch.ops.quantized.linear_dynamic_fp16(given, packed) for packed in self._packed[first:last]]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        before = first * self._size
        return y[..., wanted.start - before : wanted.stop - before].to(x.dtype)


def to_int8(module: nn.Module) -> None:
    """Put an `Int8Linear` in the place of every linear layer below `module`."""
    _replace(module, Int8Linear)


def to_float16(module: nn.Module) -> None:
    """Put a `Float16Linear` in the place of every linear layer below `module` for which there can be one."""
    _replace(module, lambda linear: Float16Linear(linear) if Float16Linear.possible(linear) else linear)


def _replace(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    for name, part in module.named_children():
        if type(part) in (nn.Linear, Linear):
            setattr(module, name, make(part))
        else:
            _replace(part, make)

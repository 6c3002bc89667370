"""Faster arithmetic for CPUs where no gradient is needed: layers as matrix products over channels-last memory.

Tensors keep their shape `(batch, channels, steps)`, but lie in memory step by step (the transpose of a contiguous
`(batch, steps, channels)`). There, `stride` steps are one row of a matrix, and a convolution whose kernel is a whole
number of strides is a sum of that many matrix products with shifted rows: nothing reordered, no gathered windows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LOG2_E = 1.4426950408889634
# Windows up to this size are cheaper to gather than to multiply part by part.
_SMALL_WINDOW = 64
_FEW_OUTPUTS = 4
_FEW_STEPS = 16


def applies(x: Tensor) -> bool:
    """Whether the functions of this module may serve `x`: float32 on a CPU, no gradient, not under a compiler."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def runs_lstm(x: Tensor) -> bool:
    """Whether `lstm` is the faster way for `x` `(batch, channels, steps)`."""
    return x.shape[-1] <= _FEW_STEPS and applies(x)


def channels_last(x: Tensor) -> bool:
    """Whether `x` `(batch, channels, steps)` lies in memory step by step."""
    return x.stride(1) == 1 and x.shape[1] > 1


def steps_first(x: Tensor) -> Tensor:
    """`(batch, channels, steps)` as `(batch, steps, channels)` with unit stride: a view where `x` is channels-last."""
    x = x.transpose(1, 2)
    return x if x.stride(2) == 1 else x.contiguous()


def join(*parts: Tensor) -> Tensor:
    """`torch.cat` along steps that keeps channels-last memory."""
    parts = [part for part in parts if part.shape[-1]] or parts[-1:]
    if len(parts) == 1:
        return parts[0]
    if channels_last(parts[-1]):
        return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)
    return torch.cat(parts, dim=-1)


def pad(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """`torch.nn.functional.pad` along steps, `"reflect"` or `"constant"`, that keeps channels-last memory."""
    if not channels_last(x):
        return F.pad(x, (left, right), mode=mode)
    x = x.transpose(1, 2)
    if mode == "constant":
        return F.pad(x, (0, 0, left, right)).transpose(1, 2)
    parts = [x[:, 1 : left + 1].flip(1), x, x[:, x.shape[1] - right - 1 : -1].flip(1)]
    return torch.cat(parts, dim=1).transpose(1, 2)


def pack(weight: Tensor) -> Tensor:
    """A convolution's weight `(a, b, kernel)` as contiguous `(a, kernel, b)`: a view where it already lies so."""
    return weight.transpose(1, 2).contiguous()


def elu(x: Tensor) -> Tensor:
    """ELU with alpha 1. `exp2` is several times faster than the `expm1` of `torch.nn.functional.elu`."""
    if not applies(x):
        return F.elu(x)
    # e^x - 1 >= x everywhere, and it is 0 where x was clamped: the larger one is right on both sides.
    y = x.clamp_max(0).mul_(_LOG2_E).exp2_().sub_(1)
    return torch.maximum(x, y, out=y)


def snake(x: Tensor, alpha: Tensor, inverse: Tensor) -> Tensor:
    """`x + inverse * sin(alpha * x) ** 2`, in the memory of one new tensor."""
    y = (alpha * x).sin_()
    return torch.addcmul(x, inverse, torch.mul(y, y, out=y), out=y)


def normalize_rows(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm with one group of channels-last `x` `(batch, channels, steps)` that keeps channels-last memory."""
    rows = x.transpose(1, 2)
    y = F.group_norm(rows.reshape(len(rows), 1, -1), 1, eps=eps).view(rows.shape)
    return torch.addcmul(bias, y, weight, out=y).transpose(1, 2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int) -> Tensor:
    """`torch.nn.functional.conv1d` for kernels of a whole number of strides; stride or dilation is 1.

    Args:
        x: `(batch, channels, (windows - 1) * stride + (kernel - 1) * dilation + 1)`.
        weight: `(out_channels, channels, kernel)`.
        bias: `(out_channels,)` or `None`.
        stride, dilation: of the convolution.
    """
    rows, matrices = _rows(x, stride), pack(weight).flatten(1).split(stride * weight.shape[1], dim=1)
    windows = rows.shape[1] - (len(matrices) - 1) * dilation
    if len(matrices) > 1 and weight[0].numel() <= _SMALL_WINDOW:
        gathered = torch.cat([rows[:, shift * dilation :][:, :windows] for shift in range(len(matrices))], dim=2)
        return F.linear(gathered, pack(weight).flatten(1), bias).transpose(1, 2)
    if len(matrices) > 1 and len(weight) <= _FEW_OUTPUTS:
        return _convolve_to_few(rows, matrices, bias, windows, dilation)
    y = None
    for shift, matrix in enumerate(matrices):
        part = rows[:, shift * dilation : shift * dilation + windows]
        if y is None:
            y = _first_product(bias, part, matrix.t())
        else:
            y.baddbmm_(part, _for_rows(matrix.t(), part))
    return y.transpose(1, 2)


def convolve_onto(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`y` plus the kernel-1 convolution of `x`; overwrites `y` `(batch, out_channels, steps)` if channels-last."""
    total, part = steps_first(y), steps_first(x)
    total.baddbmm_(part, _for_rows(pack(weight).flatten(1).t(), part))
    return (total if bias is None else total.add_(bias)).transpose(1, 2)


def convolve_transposed(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """`torch.nn.functional.conv_transpose1d` without bias, for kernels of a whole number of strides.

    Args:
        x: `(batch, channels, steps)`.
        weight: `(channels, out_channels, kernel)`.
        stride: outputs from step to step.
    """
    rows, out_channels = steps_first(x), weight.shape[1]
    matrices = pack(weight).flatten(1).split(stride * out_channels, dim=1)
    steps, overlap = rows.shape[1], len(matrices)
    y = rows.new_empty(len(rows), steps + overlap - 1, stride * out_channels)
    y[:, steps:] = 0
    torch.bmm(rows, _for_rows(matrices[0], rows), out=y[:, :steps])
    for shift, matrix in enumerate(matrices[1:], start=1):
        y[:, shift : shift + steps].baddbmm_(rows, _for_rows(matrix, rows))
    return y.view(len(rows), -1, out_channels).transpose(1, 2)


def _rows(x: Tensor, stride: int) -> Tensor:
    """`(batch, steps / stride, stride * channels)`: each row holds `stride` steps."""
    x = steps_first(x)
    return x if stride == 1 else x.reshape(len(x), -1, stride * x.shape[2])


def _for_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    return matrix.expand(len(rows), *matrix.shape)


def _first_product(bias: Tensor | None, rows: Tensor, matrix: Tensor) -> Tensor:
    if bias is None:
        return torch.bmm(rows, _for_rows(matrix, rows))
    return torch.baddbmm(bias, rows, _for_rows(matrix, rows))


def _convolve_to_few(rows: Tensor, matrices: tuple, bias: Tensor | None, windows: int, dilation: int) -> Tensor:
    """All taps of all steps in one product, then shifted sums: products with few columns waste most of a register."""
    out_channels = len(matrices[0])
    taps = torch.matmul(torch.cat(matrices), rows.transpose(1, 2))
    y = taps[:, :out_channels, :windows].clone()
    for shift in range(1, len(matrices)):
        tap = taps[:, shift * out_channels : (shift + 1) * out_channels]
        y += tap[..., shift * dilation : shift * dilation + windows]
    return y if bias is None else y.add_(bias[:, None])


def linear_by_columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of `x` `(rows, channels)`, up to 1.8 times as fast for some ten rows.

    MKL multiplies many rows by few columns at the speed of memory; few rows by many columns only up to two of them.
    """
    y = torch.mm(weight, x.t()).t().contiguous()
    return y if bias is None else y.add_(bias)


def lstm(layers: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """`layers(x, state)` for few steps of a unidirectional, unprojected `torch.nn.LSTM` without dropout.

    oneDNN's own layer reorders all weights in every call, which costs more than some twenty steps.

    Args:
        layers: the module.
        x: `(steps, batch, channels)`.
        state: hidden and cell states `(layers, batch, channels)` to start from; `None` for zeros.
    """
    zeros = x.new_zeros(layers.num_layers, x.shape[1], layers.hidden_size)
    hiddens, cells = ([*part] for part in ((zeros, zeros) if state is None else state))
    for index, (w_input, w_hidden, b_input, b_hidden) in enumerate(layers.all_weights):
        outputs = []
        for gates in F.linear(x, w_input, b_input + b_hidden):
            enter, forget, new, leave = torch.addmm(gates, hiddens[index], w_hidden.t()).chunk(4, dim=1)
            entering = enter.sigmoid_().mul_(new.tanh_())
            cells[index] = entering.addcmul_(cells[index], forget.sigmoid_())
            hiddens[index] = cells[index].tanh().mul_(leave.sigmoid_())
            outputs.append(hiddens[index])
        x = torch.stack(outputs)
    return x, (torch.stack(hiddens), torch.stack(cells))

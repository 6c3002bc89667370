"""Faster arithmetic for CPUs where no gradient is needed: layers as matrix products over channels-last memory.

Tensors keep their shape `(batch, channels, steps)`, but lie in memory step by step (the transpose of a contiguous
`(batch, steps, channels)`). There, a window without dilation is one run of memory, so that gathering few of them into
a matrix costs little; and `stride` outputs of a transposed convolution are one row of a matrix, so that it is a sum of
products with shifted rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# MKL's kernels without AVX-512 are fast and slow for other numbers of rows than those with it (measured on Zen 3).
_AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
# So many rows of one step each are faster as columns, or one after another by parts of the weight.
_BY_COLUMNS = range(8, 49) if _AVX512 else range(2, 7)
_BY_PARTS = range(0) if _AVX512 else range(2, 4)
_FEW_OUTPUTS = 4
_FEW_STEPS = 16
_LSTM_MODE = 2  # ATen's number for it
# Of a tensor: two such lie in the second level of a CPU's cache.
_CACHED_VALUES = 2**16
# Up to so many, gathering them costs a convolution less than oneDNN's reordering of the weight in every call (measured
# on Zen 3). No reordered weight is kept: which layout oneDNN wants depends on the length, and others cost far more.
_FEW_WINDOWS = 512
# Of a weight: a part that stays in the cache, and how large the whole is at least for parts to be of use.
_PART_VALUES, _LARGE_VALUES = 2**19, 2**20


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
    """Whether `lstm` is the faster way for `x` `(steps, batch, channels)`."""
    return len(x) <= _FEW_STEPS and applies(x)


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
    """`torch.nn.functional.pad` along steps, in one of `conv.PAD_MODES`, that keeps channels-last memory."""
    if not channels_last(x):
        return F.pad(x, (left, right), mode=mode)
    x = x.transpose(1, 2)
    if mode == "constant":
        return F.pad(x, (0, 0, left, right)).transpose(1, 2)
    if mode == "replicate":
        parts = [x[:, :1].expand(-1, left, -1), x, x[:, -1:].expand(-1, right, -1)]
    else:
        parts = [x[:, 1 : left + 1].flip(1), x, x[:, x.shape[1] - right - 1 : -1].flip(1)]
    return torch.cat(parts, dim=1).transpose(1, 2)


def pack(weight: Tensor) -> Tensor:
    """A convolution's weight `(a, b, kernel)` as contiguous `(a, kernel, b)`: a view where it already lies so."""
    return weight.transpose(1, 2).contiguous()


def elu(x: Tensor) -> Tensor:
    """ELU with alpha 1. `exp` is several times faster than the `expm1` of `torch.nn.functional.elu`."""
    if not applies(x):
        return F.elu(x)
    y = torch.empty_like(x)
    for part, out in _cached_parts(x, y):
        # e^x - 1 >= x everywhere, and it is 0 where e^x was clamped: the larger one is right on both sides.
        torch.exp(part, out=out).clamp_max_(1).sub_(1)
        torch.maximum(part, out, out=out)
    return y


def snake(x: Tensor, alpha: Tensor, inverse: Tensor) -> Tensor:
    """`x + inverse * sin(alpha * x) ** 2`."""
    y = torch.empty_like(x)
    for part, out in _cached_parts(x, y):
        torch.mul(alpha, part, out=out).sin_().square_()
        torch.addcmul(part, inverse, out, out=out)
    return y


def _cached_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of equally shaped `(batch, channels, steps)` tensors over which several passes stay in the cache."""
    steps = max(1, _CACHED_VALUES * tensors[0].shape[2] // max(1, tensors[0].numel()))
    return zip(*(tensor.split(steps, dim=2) for tensor in tensors), strict=True)


def normalize_rows(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm with one group of channels-last `x` `(batch, channels, steps)` that keeps channels-last memory."""
    rows = x.transpose(1, 2)
    y = F.group_norm(rows.reshape(len(rows), 1, -1), 1, eps=eps).view(rows.shape)
    return torch.addcmul(bias, y, weight, out=y).transpose(1, 2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int) -> Tensor:
    """`torch.nn.functional.conv1d` whose result is channels-last.

    Args:
        x: `(batch, channels, steps)`.
        weight: `(out_channels, channels, kernel)`.
        bias: `(out_channels,)` or `None`.
        stride, dilation: of the convolution.
    """
    if x.shape[2] == 0:
        return x.new_zeros(len(x), len(weight), 0)  # torch takes no empty images
    if stride == 1 and weight.shape[2] == 1:
        return F.linear(steps_first(x), pack(weight).flatten(1), bias).transpose(1, 2)
    windows = (x.shape[2] - (weight.shape[2] - 1) * dilation - 1) // stride + 1
    if 0 < windows <= _FEW_WINDOWS:
        return _convolve_gathered(x, weight, bias, stride, dilation, windows)
    if stride == 1 and len(weight) <= _FEW_OUTPUTS:
        return _convolve_to_few(x, weight, bias, dilation)
    return F.conv2d(_image(x), _kernel(weight), bias, (1, stride), 0, (1, dilation))[:, :, 0]


def _image(x: Tensor) -> Tensor:
    """`x` `(batch, channels, steps)` as a channels-last image of one line, said by the strides even of one channel."""
    rows = steps_first(x)
    batch, steps, channels = rows.shape
    return rows.as_strided((batch, channels, 1, steps), (rows.stride(0), 1, rows.stride(0), rows.stride(1)))


def _kernel(weight: Tensor) -> Tensor:
    return pack(weight).transpose(1, 2)[:, :, None]


def convolve_onto(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`y` `(batch, out_channels, steps)` plus the kernel-1 convolution of `x`, channels-last."""
    rows, part = steps_first(y), steps_first(x)
    total = torch.baddbmm(rows, part, _for_rows(pack(weight).flatten(1).t(), part))
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


def _for_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    return matrix.expand(len(rows), *matrix.shape)


def _convolve_gathered(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, windows: int
) -> Tensor:
    """One product of the windows, gathered, with the weight as it is."""
    rows, (out_channels, channels, kernel) = steps_first(x), weight.shape
    batch_stride, step = rows.stride(0), rows.stride(1)
    gathered = rows.as_strided(
        (len(rows), windows, kernel, channels), (batch_stride, stride * step, dilation * step, 1)
    ).reshape(-1, kernel * channels)
    y = linear(gathered, pack(weight).flatten(1), bias)
    return y.view(len(rows), windows, out_channels).transpose(1, 2)


def _convolve_to_few(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """All taps of all steps in one product, then shifted sums: products with few columns waste most of a register."""
    out_channels, windows = len(weight), x.shape[2] - (weight.shape[2] - 1) * dilation
    taps = torch.matmul(weight.permute(2, 0, 1).flatten(0, 1), steps_first(x).transpose(1, 2))
    y = taps[:, :out_channels, :windows].clone()
    for shift in range(1, weight.shape[2]):
        tap = taps[:, shift * out_channels : (shift + 1) * out_channels]
        y += tap[..., shift * dilation : shift * dilation + windows]
    return y if bias is None else y.add_(bias[:, None])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` of `x` `(rows, channels)`, up to 1.8 times as fast for few rows.

    Then it is the speed of memory that counts. MKL reaches it for one row. For some more (how many depends on the CPU)
    it does so for many rows by few columns only, or one row after another has to meet what lies in the cache.
    """
    if len(x) in _BY_PARTS and weight.numel() >= _LARGE_VALUES:
        y = _by_parts(x, weight)
    elif len(x) in _BY_COLUMNS:
        y = torch.mm(weight, x.t()).t().contiguous()
    else:
        return F.linear(x, weight, bias)
    return y if bias is None else y.add_(bias)


def _by_parts(x: Tensor, weight: Tensor) -> Tensor:
    y, size = x.new_empty(len(x), len(weight)), _PART_VALUES // weight.shape[1]
    rows, results = x.unbind(), [row.split(size) for row in y.unbind()]
    for part, *found in zip(weight.split(size), *results, strict=True):
        for row, result in zip(rows, found, strict=True):
            torch.mv(part, row, out=result)
    return y


def lstm(layers: nn.RNNBase, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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


class PackedLSTM:
    """A `torch.nn.LSTM` whose weights oneDNN need not reorder in every call; the numbers are the same.

    Args:
        layers: unprojected, float32 on a CPU, without dropout.
    """

    def __init__(self, layers: nn.RNNBase) -> None:
        self._layers, self._state = layers, _state_of(layers)
        self._weights = []
        directions = 1 + layers.bidirectional
        for index, (w_input, w_hidden, *biases) in enumerate(layers.all_weights):
            # What torch's own compiler calls when weights are frozen.
            packed = torch.ops.mkldnn._reorder_mkldnn_rnn_layer_weight(
                w_input.detach(), w_hidden.detach(), layers.hidden_size, index % directions == 1, True, False, None
            )
            self._weights.append((*packed, *(bias.detach() for bias in biases)))

    @staticmethod
    def possible(layers: nn.Module) -> bool:
        """Whether there can be one."""
        return (
            isinstance(layers, nn.RNNBase)
            and layers.mode == "LSTM"
            and layers.bias
            and layers.proj_size == 0
            and torch.backends.mkldnn.is_available()
            and hasattr(torch.ops.mkldnn, "_reorder_mkldnn_rnn_layer_weight")
            and _can_be_packed(layers)
        )

    def serves(self, layers: nn.Module, x: Tensor) -> bool:
        """Whether this is `layers(x)`: `layers` are those given, with the same weights."""
        return applies(x) and layers is self._layers and _state_of(layers) == self._state

    def __call__(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs and states for `x` `(steps, batch, channels)`, as `torch.nn.LSTM` gives them."""
        layers, directions = self._layers, 1 + self._layers.bidirectional
        x, zeros = x.contiguous(), x.new_zeros(len(self._weights), x.shape[1], layers.hidden_size)
        starts = zip(*((zeros, zeros) if state is None else state), strict=True)
        sides, hiddens, cells = [], [], []
        for index, (weights, (hidden, cell)) in enumerate(zip(self._weights, starts, strict=True)):
            backwards = index % directions == 1
            y, hidden, cell, _ = torch.ops.aten.mkldnn_rnn_layer(
                x, *weights, hidden, cell, backwards, [], _LSTM_MODE, layers.hidden_size, 1, True, False, False, False
            )
            sides.append(y)
            hiddens.append(hidden.view_as(zeros[0]))
            cells.append(cell.view_as(zeros[0]))
            if len(sides) == directions:
                x = sides[0] if directions == 1 else torch.cat(sides, dim=2)
                sides = []
        return x, (torch.stack(hiddens), torch.stack(cells))

    def __reduce__(self) -> tuple:
        """What is packed can be neither copied nor pickled: a copy of a model has none."""
        return type(None), ()


def _can_be_packed(module: nn.Module) -> bool:
    """Whether its weights are float32 on a CPU, and not made in inference mode: torch counts no changes of those."""
    return all(
        weight.is_cpu and weight.dtype == torch.float32 and not weight.is_inference() for weight in module.parameters()
    )


def _state_of(module: nn.Module) -> list[tuple[int, int]]:
    """Where parameters lie and how often they were changed, as far as torch counts."""
    return [(parameter.data_ptr(), parameter._version) for parameter in module.parameters()]


class FoldedWeight:
    """The weight that a weight norm gives to a convolution, computed and packed again only after a change.

    Torch counts changes, but not those made by way of `Parameter.data`. An average of weights that is put in place in
    that way is noticed by the gains. A copy of it, or a pickle, is empty.
    """

    def __init__(self) -> None:
        # State of the pair, its gains, and the weight: in one, so that a thread finds what belongs together.
        self._kept: tuple[list[tuple[int, int]], Tensor, Tensor] | None = None

    def __call__(self, conv: nn.Module) -> Tensor:
        """The weight of `conv`, which has a weight norm."""
        pair = conv.parametrizations.weight
        if pair.original0.is_inference():
            return conv.weight
        state, kept = _state_of(pair), self._kept
        if kept is None or kept[0] != state or not torch.equal(pair.original0, kept[1]):
            self._kept = kept = state, pair.original0.detach().clone(), pack(conv.weight).transpose(1, 2)
        return kept[2]

    def __reduce__(self) -> tuple:
        return FoldedWeight, ()

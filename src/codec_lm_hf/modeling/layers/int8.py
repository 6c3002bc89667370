"""Layers that compute in int8 as TensorFlow Lite's reference kernels do, or approximate that in floating point.

Tensors between layers are always real numbers. A layer brings its input to its input grid, so an int8 layer may follow
any other layer, and its result lies on its output grid. `arithmetic` says how closely the original is followed:

- `"integer"`: integer accumulators and fixed-point multipliers, the same integers as the original. Rounding has no
  gradient, so in training mode this computes as `"clamped"`;
- `"clamped"`: floating point, limited to what the int8 grids can represent.

Sources: Jacob et al., 2017, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference"; `tensorflow/lite/kernels/internal/{common.h,reference}`.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .conv import Conv1d, ConvTranspose1d
from .precision import Float32Buffers
from .prepared import Prepared

# Grids of a fresh model: activations up to about 8, weights up to about 1.
_ACTIVATION_SCALE = 2.0**-4
_WEIGHT_SCALE = 2.0**-7


class FixedPoint(NamedTuple):
    """A positive real number as a 31-bit mantissa and a shift, `factor / 2 ** (31 + shift)`.

    Attributes:
        factor, shift: int64.
        half, half_below_zero: int64, what is added before the shift so that it rounds, halves away from zero.
    """

    factor: Tensor
    shift: Tensor
    half: Tensor
    half_below_zero: Tensor

    @classmethod
    def of(cls, real: Tensor) -> FixedPoint:
        fraction, exponent = torch.frexp(real.double())
        mantissa = torch.floor(fraction * 2.0**31 + 0.5).long()
        shift = (-exponent.long()).clamp(min=0)
        half = (1 << shift) >> 1
        return cls(mantissa << exponent.long().clamp(min=0), shift, half, (half - 1).clamp(min=0))

    def times(self, x: Tensor) -> Tensor:
        """Integers times this number: the high half of the product, rounded, then a rounding shift.

        The two roundings can be one off from the nearest integer, exactly as `MultiplyByQuantizedMultiplier` is.

        Args:
            x: int64, within the range of int32.
        """
        high = (x * self.factor + (1 << 30)) >> 31
        return (high + torch.where(high < 0, self.half_below_zero, self.half)) >> self.shift


class Int8Grid(Prepared, Float32Buffers):
    """The real numbers that an int8 tensor can hold: `(q - zero_point) * scale` for `q` in -128..127.

    "Integers" below are the centred ones, `q - zero_point`.

    Args:
        *shape: of `scale` and `zero_point`, broadcastable to the tensors.
        initial_scale: of a fresh model.
    """

    def __init__(self, *shape: int, initial_scale: float = _ACTIVATION_SCALE) -> None:
        super().__init__()
        self.initial_scale = initial_scale
        self.register_buffer("scale", torch.full(shape, initial_scale))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))

    def prepare(self) -> tuple[Tensor, Tensor]:
        """Least and greatest integer, as float32."""
        return (-128 - self.zero_point).float(), (127 - self.zero_point).float()

    def limit(self, x: Tensor) -> Tensor:
        """`x` limited to the range of the grid."""
        low, high = self.prepared
        return torch.clamp(x, (low * self.scale).to(x.dtype), (high * self.scale).to(x.dtype))

    def to_integers(self, x: Tensor) -> Tensor:
        """Real numbers to the nearest integers, halves away from zero, as float32."""
        steps = x.float() / self.scale
        whole = steps.trunc()
        return torch.clamp(whole + (2 * (steps - whole)).trunc(), *self.prepared)

    def to_reals(self, integers: Tensor) -> Tensor:
        """Integers of any size to float32 on the grid."""
        return torch.clamp(integers, *self.prepared) * self.scale


class _Int8Layer(Prepared):
    """What int8 layers share: `arithmetic`, see above."""

    arithmetic: str

    @property
    def exact(self) -> bool:
        return self.arithmetic == "integer" and not self.training


class _Int8Sums(_Int8Layer):
    """What int8 convolutions share: integer weights, and sums of products brought to the output's grid."""

    input_grid: Int8Grid
    weight_grid: Int8Grid
    grid: Int8Grid

    def integer_weight(self) -> Tensor:
        return self.weight_grid.to_integers(self.conv.weight.detach())

    def prepare(self) -> tuple[Tensor, Tensor | None, FixedPoint]:
        """Integer weight (float32), integer bias (float64), and the ratio of the sums' scale to the output's."""
        scale = self.input_grid.scale.double() * self.weight_grid.scale.double().reshape(-1, 1)
        bias = self.conv.bias
        if bias is not None:
            bias = torch.round(bias.detach().double()[:, None] / scale)
        return self.integer_weight(), bias, FixedPoint.of(scale / self.grid.scale.double())

    def sums(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's plain convolution of integers held in float32."""
        raise NotImplementedError(f"{type(self).__name__} must define sums.")

    def integer_output(self, x: Tensor) -> Tensor:
        weight, bias, ratio = self.prepared
        with torch.autocast(x.device.type, enabled=False):
            # Sums of products of int8 stay below 2 ** 24 here, so float32 holds them exactly.
            sums = self.sums(self.input_grid.to_integers(x), weight).round()
        if bias is not None:
            sums = sums + bias
        return self.grid.to_reals(ratio.times(sums.long())).to(x.dtype)


class Int8Conv1d(_Int8Sums, Conv1d):
    """`Conv1d` in int8, with a scale for each output channel's weights. Other arguments as in `Conv1d`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, arithmetic: str, **options) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.arithmetic = arithmetic
        self.input_grid = Int8Grid(1, 1)
        self.weight_grid = Int8Grid(out_channels, 1, 1, initial_scale=_WEIGHT_SCALE)
        self.grid = Int8Grid(1, 1)

    def sums(self, x: Tensor, weight: Tensor) -> Tensor:
        conv = self.conv
        return F.conv1d(x, weight, None, conv.stride, 0, conv.dilation, conv.groups)

    def compute(self, x: Tensor) -> Tensor:
        if self.exact:
            return self.integer_output(x)
        return self.grid.limit(super().compute(self.input_grid.limit(x)))


class OrderedConv1d(_Int8Layer, Conv1d):
    """A floating-point `Conv1d` in front of int8 layers that adds up in the order of the original: by kernel position,
    then by channel.

    Where a sum lies close to halfway between two integers, the order decides between them. This one also does not
    depend on the shape of the batch or on how a stream is cut.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int, arithmetic: str) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups=groups)
        self.arithmetic = arithmetic

    def prepare(self) -> Tensor:
        """Weight `(groups, out_channels / groups, positions, in_channels / groups, 1)`."""
        return self.conv.weight.unflatten(0, (self.conv.groups, -1)).transpose(2, 3)[..., None].contiguous()

    def compute(self, x: Tensor) -> Tensor:
        if not self.exact:
            return super().compute(x)
        steps = x.shape[-1] - self.kernel_size + 1
        x = x.unflatten(1, (self.conv.groups, 1, -1))
        shifted = torch.stack([x[..., start : start + steps] for start in range(self.kernel_size)], dim=3)
        products = shifted * self.prepared
        return reduce(torch.add, products.flatten(3, 4).unbind(3)).flatten(1, 2) + self.conv.bias[:, None]


class Int8ConvTranspose1d(_Int8Sums, ConvTranspose1d):
    """`ConvTranspose1d` in int8, with grids for each output channel.

    The original computes `block` steps at a time, and what overlaps between blocks is brought to the output grid, with
    the bias in it, before it is added up. So is it here.

    Args:
        block: steps of the input that the original sees at once; inputs are whole blocks.
        in_channels, out_channels, kernel_size, stride, groups: as in `ConvTranspose1d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        groups: int,
        block: int,
        arithmetic: str,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        if self.excess > block * stride:
            raise ValueError(f"kernel_size {kernel_size} reaches beyond the next block of {block} steps.")
        self.block = block
        self.arithmetic = arithmetic
        self.input_grid = Int8Grid(1, 1)
        self.weight_grid = Int8Grid(groups, 1, out_channels // groups, 1, initial_scale=_WEIGHT_SCALE)
        self.grid = Int8Grid(out_channels, 1)

    def compute(self, x: Tensor) -> Tensor:
        batch, channels, steps = x.shape
        count, hop = steps // self.block, self.block * self.stride
        blocks = x.reshape(batch, channels, count, self.block).transpose(1, 2).reshape(-1, channels, self.block)
        parts = self._block_output(blocks).reshape(batch, count, self.out_channels, hop + self.excess)
        tails = parts[..., hop:] - self.conv.bias[:, None]
        y = F.pad(parts[..., :hop], (0, 0, 0, 0, 0, 1))
        y = y + F.pad(tails, (0, hop - self.excess, 0, 0, 1, 0))
        return y.transpose(1, 2).flatten(2)[..., : count * hop + self.excess]

    def _block_output(self, x: Tensor) -> Tensor:
        if self.exact:
            return self.integer_output(x)
        return self.grid.limit(super().compute(self.input_grid.limit(x)) + self.conv.bias[:, None])

    def integer_weight(self) -> Tensor:
        grouped = self.conv.weight.detach().unflatten(0, (self.conv.groups, -1))
        return self.weight_grid.to_integers(grouped).flatten(0, 1)

    def sums(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv_transpose1d(x, weight, None, stride=self.stride, groups=self.conv.groups)

    def finish(self, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        return y


class Int8LeakyReLU(_Int8Layer):
    """Leaky ReLU between two grids.

    Args:
        slope: of the negative side.
        arithmetic: see above.
    """

    def __init__(self, slope: float, arithmetic: str) -> None:
        super().__init__()
        self.slope = slope
        self.arithmetic = arithmetic
        self.input_grid = Int8Grid(1, 1)
        self.grid = Int8Grid(1, 1)

    def prepare(self) -> tuple[FixedPoint, FixedPoint]:
        """Factors of the positive and of the negative side."""
        # These two ratios are float32 in the original, those of the other layers are not.
        scale = self.input_grid.scale
        return FixedPoint.of(scale / self.grid.scale), FixedPoint.of(scale * self.slope / self.grid.scale)

    def forward(self, x: Tensor) -> Tensor:
        if not self.exact:
            return self.grid.limit(F.leaky_relu(self.input_grid.limit(x), self.slope))
        positive, negative = self.prepared
        integers = self.input_grid.to_integers(x).long()
        integers = torch.where(integers >= 0, positive.times(integers), negative.times(integers))
        return self.grid.to_reals(integers).to(x.dtype)


class Int8Add(_Int8Layer):
    """Sum of two tensors, each on a grid of its own.

    Args:
        arithmetic: see above.
    """

    def __init__(self, arithmetic: str) -> None:
        super().__init__()
        self.arithmetic = arithmetic
        self.input_grid = Int8Grid(1, 1)
        self.skip_grid = Int8Grid(1, 1)
        self.grid = Int8Grid(1, 1)

    def prepare(self) -> tuple[FixedPoint, FixedPoint, FixedPoint]:
        """Factors that bring both inputs to one scale with 20 bits below the point, and their sum to the output's."""
        twice_larger = 2 * torch.maximum(self.input_grid.scale, self.skip_grid.scale).double()
        ratios = [grid.scale.double() / twice_larger for grid in (self.input_grid, self.skip_grid)]
        return *map(FixedPoint.of, ratios), FixedPoint.of(twice_larger / (2**20 * self.grid.scale.double()))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if not self.exact:
            return self.grid.limit(self.input_grid.limit(x) + self.skip_grid.limit(skip))
        of_input, of_skip, of_sum = self.prepared
        total = of_input.times(self.input_grid.to_integers(x).long() << 20)
        total = total + of_skip.times(self.skip_grid.to_integers(skip).long() << 20)
        return self.grid.to_reals(of_sum.times(total)).to(x.dtype)

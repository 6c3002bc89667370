"""Convolutions over frequency and time: bins have a fixed number, time is handled as in `conv`.

Tensors are `(batch, channels, bins, steps)`. Towards time, all bins of all channels are so many channels, so padding,
ragged batches and streams are those of the 1-D layers.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from .conv import OverlapAdd, SlidingWindow, refuse_stream, with_norm
from .streaming import TimeContext, lengths_of


class Conv2d(SlidingWindow):
    """2-D convolution with `ceil(steps / stride)` outputs along time and `floor(bins / stride)` along frequency.

    Along frequency the padding stands on both sides, `kernel - stride` in all, the odd one below the lowest bin. When
    not causal, a last incomplete stride of time is made up for on the left (a trait of the original, kept for its
    weights).

    Args:
        in_channels, out_channels, groups: as in `torch.nn.Conv2d`.
        kernel_size, stride, dilation: pairs, frequency first.
        bins: of the input.
        causal, pad_mode: see `SlidingWindow`.
        norm_type, fused: as in `Conv1d`.

    Source: `SConv2d` in `funcodec/modules/normed_modules/conv.py`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        bins: int,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        causal: bool = True,
        pad_mode: str = "constant",
        norm_type: str = "none",
        fused: bool = False,
    ) -> None:
        height, width = ((size - 1) * step + 1 for size, step in zip(kernel_size, dilation, strict=True))
        padding = height - stride[0]
        out_bins = (bins + padding - height) // stride[0] + 1
        super().__init__(width, stride[1], out_channels * out_bins, causal, pad_mode, fill_left=not causal)
        self.pad_above = padding // 2
        self.pad_below = padding - self.pad_above
        self.bins, self.out_bins = bins, out_bins
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups)
        self.conv, self.norm = with_norm(conv, norm_type, fused)

    def compute(self, x: Tensor) -> Tensor:
        return self.conv(self._pad_bins(x.unflatten(1, (-1, self.bins)))).flatten(1, 2)

    def _pad_bins(self, x: Tensor) -> Tensor:
        sides = (0, 0, self.pad_below, self.pad_above)
        missing = max(sides) + 1 - self.bins
        if missing <= 0 or self.pad_mode != "reflect":
            return F.pad(x, sides, mode=self.pad_mode) if any(sides) else x
        return F.pad(F.pad(x, (0, 0, 0, missing)), sides, mode="reflect")[:, :, :-missing]

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        refuse_stream(self.norm, time)
        x = super().forward(x.flatten(1, 2), time).unflatten(1, (-1, self.out_bins))
        return x if self.norm is None else self.norm(x, lengths_of(time))


class ConvTranspose2d(OverlapAdd):
    """Transposed 2-D convolution with `steps * stride` outputs along time and `bins * stride` along frequency.

    Along frequency the excess is trimmed on both sides, the odd one below. A norm sees the untrimmed output, bins and
    steps, as in the original.

    Args:
        in_channels, out_channels, groups: as in `torch.nn.ConvTranspose2d`.
        kernel_size, stride: pairs, frequency first.
        bins: of the input.
        causal, trim_right_ratio: of time, see `ConvTranspose1d`.
        extra_bins: this many bins more are kept above.
        norm_type, fused: as in `Conv1d`.

    Source: `SConvTranspose2d` in `funcodec/modules/normed_modules/conv.py`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        bins: int,
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
        causal: bool = True,
        trim_right_ratio: float = 1.0,
        extra_bins: int = 0,
        norm_type: str = "none",
        fused: bool = False,
    ) -> None:
        excess, excess_bins = kernel_size[1] - stride[1], kernel_size[0] - stride[0]
        trim_right = math.ceil(excess * trim_right_ratio) if causal else excess // 2
        all_bins = bins * stride[0] + excess_bins
        super().__init__(kernel_size[1], stride[1], out_channels * all_bins, excess - trim_right)
        trim_above = max(0, excess_bins // 2 - extra_bins)
        self.kept_bins = slice(excess_bins - excess_bins // 2, all_bins - trim_above)
        self.bins, self.all_bins = bins, all_bins
        self.out_bins = self.kept_bins.stop - self.kept_bins.start
        conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        self.conv, self.norm = with_norm(conv, norm_type, fused)

    def compute(self, x: Tensor) -> Tensor:
        x, conv = x.unflatten(1, (-1, self.bins)), self.conv
        return F.conv_transpose2d(x, conv.weight, None, stride=conv.stride, groups=conv.groups).flatten(1, 2)

    def finish(self, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        y = y.unflatten(1, (-1, self.all_bins)) + self.conv.bias[:, None, None]
        y = y if self.norm is None else self.norm(y, lengths)
        return y[:, :, self.kept_bins].flatten(1, 2)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        refuse_stream(self.norm, time)
        return super().forward(x.flatten(1, 2), time).unflatten(1, (-1, self.out_bins))

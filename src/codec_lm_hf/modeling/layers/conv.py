"""Convolutions along time whose padding, trimming, ragged batches and streaming are settled in one place."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from .streaming import Stream, TimeContext, lengths_of, zero_padding

PAD_MODES = ("constant", "reflect")
NORM_TYPES = ("none", "weight_norm", "time_group_norm")


class TimeGroupNorm(nn.GroupNorm):
    """Normalisation over all channels and all valid steps of a row (EnCodec's `time_group_norm`).

    It looks at the whole row, so it cannot be streamed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            return super().forward(x)
        mask = TimeContext(lengths).mask(x.shape[-1])
        count = lengths[:, None, None] * x.shape[1]
        mean = (x * mask).sum((1, 2), keepdim=True) / count
        variance = (((x - mean) * mask) ** 2).sum((1, 2), keepdim=True) / count
        x = (x - mean) * torch.rsqrt(variance + self.eps)
        return x * self.weight[:, None] + self.bias[:, None]


def _check(pad_mode: str, norm_type: str) -> None:
    if pad_mode not in PAD_MODES:
        raise ValueError(f"pad_mode must be one of {PAD_MODES}, got {pad_mode!r}.")
    if norm_type not in NORM_TYPES:
        raise ValueError(f"norm_type must be one of {NORM_TYPES}, got {norm_type!r}.")


def _refuse_stream(norm: nn.Module | None, time: TimeContext | None) -> None:
    if isinstance(time, Stream) and norm is not None:
        raise ValueError("time_group_norm looks at the whole signal and cannot be streamed; use encode() and decode().")


def has_weight_norm(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module, "weight")


def fuse_weight_norm(module: nn.Module) -> None:
    """Replace every weight-norm pair below `module` by the weight it stands for."""
    for part in module.modules():
        if has_weight_norm(part):
            parametrize.remove_parametrizations(part, "weight")


class Conv1d(nn.Module):
    """1-D convolution with `ceil(steps / stride)` outputs and SEANet's padding.

    The left and right padding together are `kernel - stride` (kernel counted with dilation), all of it on the left when
    causal; a last incomplete stride is padded on the right. Reflection of an input that is shorter than the padding
    first appends zeros, as EnCodec does (`encodec/modules/conv.py`).

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as in `torch.nn.Conv1d`.
        causal: no output depends on later inputs (beyond the end-of-signal padding).
        pad_mode: `"reflect"` or `"constant"` (zeros).
        norm_type: `"none"`, `"weight_norm"`, or `"time_group_norm"` after the convolution.
        fused: build the plain weight where `norm_type` asks for weight norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = True,
        pad_mode: str = "constant",
        norm_type: str = "none",
        fused: bool = False,
    ) -> None:
        super().__init__()
        _check(pad_mode, norm_type)
        self.conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups, bias=bias
        )
        if norm_type == "weight_norm" and not fused:
            parametrizations.weight_norm(self.conv)
        self.norm = TimeGroupNorm(out_channels) if norm_type == "time_group_norm" else None
        self.pad_mode = pad_mode
        self.stride = stride
        self.kernel_size = (kernel_size - 1) * dilation + 1
        total = self.kernel_size - stride
        if total < 0:
            raise ValueError(f"kernel_size {self.kernel_size} must not be smaller than stride {stride}.")
        self.pad_right = 0 if causal else total // 2
        self.pad_left = total - self.pad_right

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """Convolve `x` `(batch, in_channels, steps)`; see the module text for `time`."""
        _refuse_stream(self.norm, time)
        if isinstance(time, Stream):
            return self._stream(x, time)
        lengths = lengths_of(time)
        if lengths is None:
            x = self._pad(x)
        elif self.pad_mode == "reflect":
            x = self._pad_ragged(x, lengths)
        else:
            x = self._pad(zero_padding(x, time))
        x = self.conv(x)
        if lengths is not None and self.stride > 1:
            time.lengths = lengths = (lengths + self.stride - 1) // self.stride
        return x if self.norm is None else self.norm(x, lengths)

    def _pad(self, x: Tensor) -> Tensor:
        steps = x.shape[-1]
        right = self.pad_right + -steps % self.stride
        if self.pad_left == 0 and right == 0:
            return x
        if self.pad_mode == "constant":
            return F.pad(x, (self.pad_left, right))
        missing = max(self.pad_left, right) + 1 - steps
        if missing <= 0:
            return F.pad(x, (self.pad_left, right), mode="reflect")
        return F.pad(F.pad(x, (0, missing)), (self.pad_left, right), mode="reflect")[..., :-missing]

    def _pad_ragged(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`_pad` of every row at its own length, as one gather."""
        steps = x.shape[-1]
        right = self.pad_right + -lengths % self.stride
        last = torch.maximum(lengths, right.clamp(min=self.pad_left) + 1) - 1
        position = torch.arange(-self.pad_left, steps + self.pad_right + -steps % self.stride, device=x.device)
        source = position.abs()[None]
        source = torch.where(source > last[:, None], 2 * last[:, None] - source, source)
        valid = (source >= 0) & (source < lengths[:, None])
        index = source.clamp(0, steps - 1)[:, None].expand(-1, x.shape[1], -1)
        return x.gather(-1, index) * valid[:, None]

    def _stream(self, x: Tensor, stream: Stream) -> Tensor:
        # The right reflection at the end of the signal reaches back this far beyond the kernel's own context.
        history = 0
        if self.pad_mode == "reflect":
            history = max(0, self.pad_right + self.stride - (self.kernel_size - self.stride))
        kept = stream.take(self)
        if kept is not None:
            x = torch.cat([kept["input"], x], dim=-1)
        if kept is None or not kept["started"]:
            enough = 0 if self.pad_mode == "constant" else max(self.pad_left, self.pad_right + self.stride - 1) + 1
            if stream.final:
                return self._stream_end(self._pad(x), x)
            if x.shape[-1] < enough:
                stream.keep(self, {"input": x, "started": False, "skip": 0})
                return self._nothing(x)
            mode = self.pad_mode if self.pad_left else "constant"
            x, skip = F.pad(x, (self.pad_left, 0), mode=mode), 0
        else:
            skip = kept["skip"]
        if stream.final:
            right = self.pad_right + (self.pad_left - (x.shape[-1] - skip)) % self.stride
            if right:
                x = F.pad(x, (0, right), mode=self.pad_mode)
            return self._stream_end(x[..., skip:], x)
        frames = max(0, (x.shape[-1] - skip - self.kernel_size) // self.stride + 1)
        used = skip + frames * self.stride
        keep_from = max(0, used - history)
        stream.keep(self, {"input": x[..., keep_from:], "started": True, "skip": used - keep_from})
        if frames == 0:
            return self._nothing(x)
        return self.conv(x[..., skip : used - self.stride + self.kernel_size])

    def _stream_end(self, padded: Tensor, x: Tensor) -> Tensor:
        return self.conv(padded) if padded.shape[-1] >= self.kernel_size and x.shape[-1] else self._nothing(x)

    def _nothing(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.conv.out_channels, 0)


class ConvTranspose1d(nn.Module):
    """Transposed 1-D convolution with `steps * stride` outputs.

    The full output is `kernel - stride` longer and is trimmed: when causal, `trim_right_ratio` of the excess on the right,
    the rest on the left; otherwise half on either side (EnCodec, `encodec/modules/conv.py`). A norm over time sees the
    untrimmed output, as there.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, bias: as in `torch.nn.ConvTranspose1d`.
        causal, norm_type, fused: as in `Conv1d`.
        trim_right_ratio: share of the excess that a causal layer trims on the right; 1.0 means no look-ahead.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = True,
        norm_type: str = "none",
        trim_right_ratio: float = 1.0,
        fused: bool = False,
    ) -> None:
        super().__init__()
        _check("constant", norm_type)
        self.conv = nn.ConvTranspose1d(
            in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=bias
        )
        if norm_type == "weight_norm" and not fused:
            parametrizations.weight_norm(self.conv)
        self.norm = TimeGroupNorm(out_channels) if norm_type == "time_group_norm" else None
        self.stride = stride
        self.excess = kernel_size - stride
        if self.excess < 0:
            raise ValueError(f"kernel_size {kernel_size} must not be smaller than stride {stride}.")
        self.trim_right = math.ceil(self.excess * trim_right_ratio) if causal else self.excess // 2
        self.trim_left = self.excess - self.trim_right

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """Upsample `x` `(batch, in_channels, steps)` to `(batch, out_channels, steps * stride)`."""
        _refuse_stream(self.norm, time)
        if isinstance(time, Stream):
            return self._stream(x, time)
        lengths = lengths_of(time)
        if self.excess > 0:
            x = zero_padding(x, time)
        x = self.conv(x)
        if lengths is not None:
            lengths = lengths * self.stride
            time.lengths = lengths
        if self.norm is not None:
            x = self.norm(x, None if lengths is None else lengths + self.excess)
        return x[..., self.trim_left : x.shape[-1] - self.trim_right]

    def _stream(self, x: Tensor, stream: Stream) -> Tensor:
        conv, channels = self.conv, self.conv.out_channels
        tail, skip = stream.take(self) or (x.new_zeros(x.shape[0], channels, self.excess), self.trim_left)
        if x.shape[-1]:
            y = F.conv_transpose1d(x, conv.weight, None, stride=self.stride, groups=conv.groups)
            y[..., : self.excess] += tail
        else:
            y = tail
        ready = x.shape[-1] * self.stride
        stream.keep(self, (y[..., ready:], max(0, skip - ready)))
        if stream.final:
            ready += self.trim_left
        y = y[..., skip:ready]
        return y if conv.bias is None else y + conv.bias[:, None]

"""Convolutions along time whose padding, trimming, ragged batches and streaming are settled in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from transformers import initialization as init

from . import cpu_inference
from .streaming import Stream, TimeContext, Unpadded, kept_apart, lengths_of, zero_padding

PAD_MODES = ("constant", "reflect", "replicate")
OVERLAP_PAD_MODES = ("constant", "replicate")
NORM_TYPES = ("none", "weight_norm", "time_group_norm")


class TimeGroupNorm(nn.GroupNorm):
    """Normalisation over groups of channels and all valid steps of a row.

    It looks at the whole row, so it cannot be streamed.

    Args:
        channels: of the input `(batch, channels, ..., steps)`.
        groups: of channels, each normalised by itself; one is EnCodec's `time_group_norm`.
        eps: added to the variance.
    """

    whole_signal = True

    def __init__(self, channels: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__(groups, channels, eps)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            if self.num_groups == 1 and x.ndim == 3 and cpu_inference.channels_last(x) and cpu_inference.applies(x):
                return cpu_inference.normalize_rows(x, self.weight, self.bias, self.eps)
            return super().forward(x)
        mask = TimeContext(lengths).mask(x.shape[-1])[:, None]
        grouped = x.reshape(len(x), self.num_groups, -1, x.shape[-1])
        count = lengths[:, None, None, None] * grouped.shape[2]
        mean = (grouped * mask).sum((2, 3), keepdim=True) / count
        variance = (((grouped - mean) * mask) ** 2).sum((2, 3), keepdim=True) / count
        x = ((grouped - mean) * torch.rsqrt(variance + self.eps)).view(x.shape)
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        return x * self.weight.view(per_channel) + self.bias.view(per_channel)


def with_norm(conv: nn.Module, norm_type: str, fused: bool) -> tuple[nn.Module, TimeGroupNorm | None]:
    """The convolution, with weight norm if `norm_type` asks for it, and the norm that follows it, if any."""
    if norm_type not in NORM_TYPES:
        raise ValueError(f"norm_type must be one of {NORM_TYPES}, got {norm_type!r}.")
    if norm_type == "weight_norm" and not fused:
        weight_normed(conv)
    return conv, TimeGroupNorm(conv.out_channels) if norm_type == "time_group_norm" else None


def weight_normed(module: nn.Module) -> nn.Module:
    """`module`, whose `weight` weight norm computes from now on."""
    parametrizations.weight_norm(module)
    # Torch's hook for the parts' names in old checkpoints, which converters know; it cannot be pickled.
    module._load_state_dict_pre_hooks.clear()
    return picklable(module)


def picklable(module: nn.Module) -> nn.Module:
    """`module`, a parametrized one, so that it can be pickled.

    Torch makes a class for each, which pickle cannot find again, and forbids it: a pickle says how to make another.
    """
    type(module).__reduce_ex__ = _reduce_parametrized
    return module


def _reduce_parametrized(module: nn.Module, protocol: int) -> tuple:
    return _empty_parametrized, (type(module).__bases__[0], *module.parametrizations), dict(vars(module))


def _empty_parametrized(base: type[nn.Module], *names: str) -> nn.Module:
    """A module of the class that torch makes of `base` for parametrized tensors; its state comes later."""
    module = base.__new__(base)
    nn.Module.__init__(module)
    for name in names:
        module.register_parameter(name, nn.Parameter(torch.empty(0)))
        parametrize.register_parametrization(module, name, nn.Identity(), unsafe=True)
    return picklable(module)


def windows_through(layers: Sequence[SlidingWindow], steps: Tensor | int) -> Tensor | int:
    """Steps that come out of sliding windows one after the other, for `steps` that go in."""
    for layer in layers:
        steps = layer.num_windows(steps)
    return steps


def refuse_stream(part: nn.Module | None, time: TimeContext | None) -> None:
    """Raise `ValueError` if there is a `part`, which needs the whole signal, and `time` is a stream.

    Such a part also bears an attribute `whole_signal`, by which a model knows that it cannot be streamed.
    """
    if isinstance(time, Stream) and part is not None:
        raise ValueError(
            "a layer that looks at the whole signal (a norm over time, padding by its length) cannot be streamed; use "
            "encode() and decode()."
        )


def has_weight_norm(module: nn.Module) -> bool:
    """Whether weight norm still computes the weight of `module` from its two parts."""
    return parametrize.is_parametrized(module, "weight") and hasattr(module.parametrizations.weight, "original1")


def reset_weight_norm(module: nn.Module) -> None:
    """Draw a weight as `torch.nn.Conv1d` does, and take its norms for the weight-norm gain."""
    pair = module.parametrizations.weight
    init.kaiming_uniform_(pair.original1, a=5**0.5)
    init.copy_(pair.original0, torch.norm_except_dim(pair.original1, 2, 0))


class FoldedConv(nn.Module):
    """A layer around a convolution `conv`, whose weight in inference is not computed from its weight norm every time.

    Attributes:
        conv: `torch.nn.Conv1d` or `torch.nn.ConvTranspose1d`.
    """

    conv: nn.Conv1d | nn.ConvTranspose1d

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self._folded = cpu_inference.FoldedWeight()

    @property
    def inference_weight(self) -> Tensor:
        """`conv.weight`, for `cpu_inference`."""
        return self._folded(self.conv) if has_weight_norm(self.conv) else self.conv.weight

    def train(self, mode: bool = True) -> nn.Module:
        if mode:
            self._folded = cpu_inference.FoldedWeight()  # it would only take up memory
        return super().train(mode)


def fuse_weight_norm(module: nn.Module) -> None:
    """Replace weight-norm pairs below `module` by their weights, laid out as `cpu_inference` reads them."""
    for part in module.modules():
        if has_weight_norm(part):
            # Copies share the class that torch made, and would go without a weight, too: it gets one of its own.
            made = type(part)
            part.__class__ = type(made.__name__, made.__bases__, dict(vars(made)))
            parametrize.remove_parametrizations(part, "weight")
        if isinstance(part, (nn.Conv1d, nn.ConvTranspose1d)):
            part.weight.data = cpu_inference.pack(part.weight.data).transpose(1, 2)


def _runs_as_products(conv: nn.Conv1d | nn.ConvTranspose1d, x: Tensor) -> bool:
    """Whether `cpu_inference` computes this convolution of `x`."""
    whole = isinstance(conv, nn.Conv1d) or conv.kernel_size[0] % conv.stride[0] == 0
    return whole and conv.groups == 1 and cpu_inference.applies(x)


def _needs_float32(conv: nn.Conv1d, x: Tensor) -> bool:
    """Whether this is a convolution that oneDNN (torch 2.13) may compute wrongly, as noise.

    Seen in bfloat16 on a CPU with AMX, with 16 channels and a kernel of two strides of 4 or 8.
    """
    if x.device.type != "cpu" or conv.stride[0] == 1:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype == torch.bfloat16


def _in_float32(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """`conv(x)` in bfloat16, computed in float32."""
    bias = None if conv.bias is None else conv.bias.float()
    with torch.autocast("cpu", enabled=False):
        y = F.conv1d(x.float(), conv.weight.float(), bias, conv.stride, 0, conv.dilation, conv.groups)
    return y.bfloat16()


class SlidingWindow(nn.Module):
    """Something computed from every `stride`-th window of a signal: padding, ragged batches and streams.

    There are `ceil(steps / stride)` windows. The left and right padding together are `kernel_size - stride`, all of it
    on the left when causal; a last incomplete stride is padded on the right. Reflection of an input shorter than the
    padding first appends zeros, as EnCodec does (`encodec/modules/conv.py`).

    Args:
        kernel_size: steps that a window spans.
        stride: steps from window to window.
        out_channels: channels of the result.
        causal: no window reaches beyond its stride (but for the end-of-signal padding).
        pad_mode: `"reflect"`, `"constant"` (zeros) or `"replicate"` (the first and the last step again).
        padding: steps added at either side, as in `torch.nn.Conv1d`, or a pair of left and right, in place of the
            above. Then steps that fill no last window are dropped, and there are
            `(steps + left + right - kernel_size) // stride + 1` windows.
        fill_left: a last incomplete stride is made up for on the left. Then, with a stride, the first window depends
            on the length of the signal, which a stream does not know.

    Attributes:
        whole_signal: the length of the signal must be known, so that nothing can be streamed.
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int,
        out_channels: int,
        causal: bool,
        pad_mode: str,
        padding: int | tuple[int, int] | None = None,
        fill_left: bool = False,
    ) -> None:
        super().__init__()
        if pad_mode not in PAD_MODES:
            raise ValueError(f"pad_mode must be one of {PAD_MODES}, got {pad_mode!r}.")
        total = kernel_size - stride
        if total < 0:
            raise ValueError(f"kernel_size {kernel_size} must not be smaller than stride {stride}.")
        self.kernel_size = kernel_size
        self.stride = stride
        self.out_channels = out_channels
        self.pad_mode = pad_mode
        self.fills = padding is None
        self.fill_left = fill_left
        self.whole_signal = fill_left and stride > 1
        if padding is None:
            right = 0 if causal else total // 2
            padding = (total - right, right)
        self.pad_left, self.pad_right = (padding, padding) if isinstance(padding, int) else padding

    def compute(self, x: Tensor) -> Tensor:
        """The result of every complete window of `x` `(batch, channels, steps)`: `(batch, out_channels, windows)`."""
        raise NotImplementedError

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """Results for `x` `(batch, channels, steps)`; see `modeling.layers.streaming` for `time`."""
        if isinstance(time, Stream):
            return self._stream(x, time)
        if isinstance(time, Unpadded):
            return self.compute(self._complete(x))
        lengths = lengths_of(time)
        if lengths is None:
            return self.compute(self._complete(self._pad(x)))
        if self.pad_mode != "constant" or self.whole_signal:
            x = self._pad_ragged(x, lengths)
        else:
            x = self._pad(zero_padding(x, time))
        time.lengths = self.num_windows(lengths)
        return self.compute(self._complete(x))

    def num_windows(self, steps: Tensor | int) -> Tensor | int:
        """Windows of a row of `steps` steps."""
        return (steps + self.padding_of(steps) - self.kernel_size) // self.stride + 1

    def padding_of(self, steps: Tensor | int) -> Tensor | int:
        """Steps that are added, left and right together, to `steps` steps."""
        return self.pad_left + self.pad_right + (-steps % self.stride) * self.fills

    def _sides(self, steps: Tensor | int) -> tuple[Tensor | int, Tensor | int]:
        """`padding_of(steps)`, left and right."""
        total = self.padding_of(steps)
        return (total - self.pad_right, self.pad_right) if self.fill_left else (self.pad_left, total - self.pad_left)

    def _complete(self, x: Tensor) -> Tensor:
        """`x` without the steps at its end that fill no window."""
        surplus = (x.shape[-1] - self.kernel_size) % self.stride
        return x[..., : x.shape[-1] - surplus] if surplus else x

    def _pad(self, x: Tensor) -> Tensor:
        steps = x.shape[-1]
        left, right = self._sides(steps)
        if left == 0 and right == 0:
            return x
        missing = max(left, right) + 1 - steps
        if missing <= 0 or self.pad_mode != "reflect":
            return cpu_inference.pad(x, left, right, self.pad_mode)
        return F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")[..., :-missing]

    def _pad_ragged(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`_pad` of every row at its own length, as one gather."""
        steps = x.shape[-1]
        left, right = (side + torch.zeros_like(lengths) for side in self._sides(lengths))
        source = torch.arange(steps + self.padding_of(steps), device=x.device) - left[:, None]
        if self.pad_mode == "reflect":
            last = torch.maximum(lengths, torch.maximum(left, right) + 1)[:, None] - 1
            source = source.abs()
            source = torch.where(source > last, 2 * last - source, source)
        if self.pad_mode == "replicate":
            source = source.clamp(min=0).minimum(lengths[:, None] - 1)
        valid = (source >= 0) & (source < lengths[:, None])
        index = source.clamp(0, steps - 1)[:, None].expand(-1, x.shape[1], -1)
        return x.gather(-1, index) * valid[:, None]

    def _stream(self, x: Tensor, stream: Stream) -> Tensor:
        refuse_stream(self if self.whole_signal else None, stream)
        if self.kernel_size == 1 and not self.pad_left + self.pad_right and x.shape[-1]:
            return self.compute(x)
        # Steps that the padding at the signal's start is made of; and how far back the padding at its end reaches.
        enough, reach = {
            "constant": (0, 0),
            "replicate": (1, 1),
            "reflect": (max(self.pad_left, self.pad_right + self.stride - 1) + 1, self.pad_right + self.stride),
        }[self.pad_mode]
        history = max(0, reach - (self.kernel_size - self.stride))  # beyond the kernel's own context
        kept = stream.take(self)
        if kept is not None:
            x = cpu_inference.join(kept["input"], x)
        if kept is None or not kept["started"]:
            if stream.final:
                return self._stream_end(self._pad(x) if x.shape[-1] else x, x)
            if x.shape[-1] < enough:
                stream.keep(self, {"input": x, "started": False, "skip": 0})
                return self._nothing(x)
            mode = self.pad_mode if self.pad_left else "constant"
            x, skip = cpu_inference.pad(x, self.pad_left, 0, mode), 0
        else:
            skip = kept["skip"]
        if stream.final:
            right = self.pad_right
            if self.fills:
                right += (self.pad_left - (x.shape[-1] - skip)) % self.stride
            if right:
                x = cpu_inference.pad(x, 0, right, self.pad_mode)
            return self._stream_end(x[..., skip:], x)
        frames = max(0, (x.shape[-1] - skip - self.kernel_size) // self.stride + 1)
        used = skip + frames * self.stride
        keep_from = max(0, used - history)
        stream.keep(self, {"input": kept_apart(x[..., keep_from:]), "started": True, "skip": used - keep_from})
        if frames == 0:
            return self._nothing(x)
        return self.compute(x[..., skip : used - self.stride + self.kernel_size])

    def _stream_end(self, padded: Tensor, x: Tensor) -> Tensor:
        if padded.shape[-1] < self.kernel_size or x.shape[-1] == 0:
            return self._nothing(x)
        return self.compute(self._complete(padded))

    def _nothing(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.out_channels, 0)


class Conv1d(FoldedConv, SlidingWindow):
    """1-D convolution with, unless `padding` is given, `ceil(steps / stride)` outputs.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as in `torch.nn.Conv1d`.
        causal, pad_mode, padding: see `SlidingWindow`.
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
        padding: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__((kernel_size - 1) * dilation + 1, stride, out_channels, causal, pad_mode, padding)
        conv = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups, bias=bias
        )
        self.conv, self.norm = with_norm(conv, norm_type, fused)

    def compute(self, x: Tensor) -> Tensor:
        if not _runs_as_products(self.conv, x):
            return _in_float32(self.conv, x) if _needs_float32(self.conv, x) else self.conv(x)
        (stride,), (dilation,) = self.conv.stride, self.conv.dilation
        return cpu_inference.convolve(x, self.inference_weight, self.conv.bias, stride, dilation)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        refuse_stream(self.norm, time)
        x = super().forward(x, time)
        return x if self.norm is None else self.norm(x, lengths_of(time))

    def added_to(self, y: Tensor, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """`y + self(x, time)`, in one step where no gradient is needed."""
        plain = self.kernel_size == 1 and self.stride == 1 and self.norm is None and lengths_of(time) is None
        if not (plain and x.shape[-1] and _runs_as_products(self.conv, x)):
            return y + self(x, time)
        return cpu_inference.convolve_onto(y, x, self.inference_weight, self.conv.bias)


class OverlapAdd(nn.Module):
    """Something that turns every step into `kernel_size` overlapping outputs, `stride` apart, and adds them up.

    The full output is `kernel_size - stride` longer than `steps * stride`; by default it is trimmed to that.

    Args:
        kernel_size: outputs of one step.
        stride: outputs from step to step.
        out_channels: channels of the result.
        trim_left: how much of the excess is cut at the left, which is the look-ahead.
        trim_right: how much is cut at the right; the rest of the excess by default. Together they may be less
            or more than the excess; then the output is not `steps * stride` long.
        pad_mode: what stands before the signal and overlaps with its first outputs: `"constant"` (nothing), or
            `"replicate"`, copies of the first step. Source for the latter: `CausalConvTranspose1d` in AudioDec's
            `layers/conv_layer.py`.
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int,
        out_channels: int,
        trim_left: int,
        trim_right: int | None = None,
        pad_mode: str = "constant",
    ) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = out_channels
        self.excess = kernel_size - stride
        if self.excess < 0:
            raise ValueError(f"kernel_size {kernel_size} must not be smaller than stride {stride}.")
        if pad_mode not in OVERLAP_PAD_MODES:
            raise ValueError(f"pad_mode must be one of {OVERLAP_PAD_MODES}, got {pad_mode!r}.")
        self.copies = -(-self.excess // stride) if pad_mode == "replicate" else 0
        self.trim_left = trim_left + self.copies * stride
        self.trim_right = self.excess - trim_left if trim_right is None else trim_right

    def compute(self, x: Tensor) -> Tensor:
        """Untrimmed sum for `x` `(batch, channels, steps)`: `(batch, out_channels, (steps - 1) * stride + kernel)`."""
        raise NotImplementedError

    def finish(self, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What follows the sum, on untrimmed outputs offline and on completed ones in a stream."""
        return y

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """Results `(batch, out_channels, steps * stride)`; see `modeling.layers.streaming` for `time`."""
        if isinstance(time, Stream):
            return self._stream(x, time)
        if isinstance(time, Unpadded):
            return self.finish(self.compute(x))
        lengths = lengths_of(time)
        if lengths is not None:
            x = zero_padding(x, time)
            lengths = (lengths + self.copies) * self.stride + self.excess
            time.lengths = lengths - self.trim_left - self.trim_right
        y = self.finish(self.compute(self._with_copies(x)), lengths)
        return y[..., self.trim_left : y.shape[-1] - self.trim_right]

    def _with_copies(self, x: Tensor) -> Tensor:
        return cpu_inference.join(*[x[..., :1]] * self.copies, x) if self.copies else x

    def _stream(self, x: Tensor, stream: Stream) -> Tensor:
        kept = stream.take(self)
        if kept is None:
            if self.copies and x.shape[-1] == 0:
                return x.new_zeros(x.shape[0], self.out_channels, 0)
            x = self._with_copies(x)
        # What may yet be trimmed at the end is held back beside what coming steps add to.
        held = max(0, self.trim_right - self.excess)
        if kept is None:
            kept = x.new_zeros(x.shape[0], self.out_channels, held + self.excess), held + self.trim_left
        y, skip = kept
        if x.shape[-1]:
            new = self.compute(x)
            new[..., : self.excess] += y[..., held:]
            y = cpu_inference.join(y[..., :held], new) if held else new
        ready = x.shape[-1] * self.stride
        stream.keep(self, (kept_apart(y[..., ready:]), max(0, skip - ready)))
        if stream.final:
            ready = y.shape[-1] - self.trim_right
        return self.finish(y[..., skip:ready])


class ConvTranspose1d(FoldedConv, OverlapAdd):
    """Transposed 1-D convolution with `steps * stride` outputs.

    When causal, `trim_right_ratio` of the excess is trimmed on the right, the rest on the left; otherwise half on
    either side (EnCodec, `encodec/modules/conv.py`). A norm over time sees the untrimmed output, as there.

    Args:
        in_channels, out_channels, kernel_size, stride, groups, bias: as in `torch.nn.ConvTranspose1d`.
        causal: see above.
        norm_type, fused: as in `Conv1d`.
        pad_mode: see `OverlapAdd`.
        trim_right_ratio: 1.0 means no look-ahead.
        padding: outputs cut at either side, as in `torch.nn.ConvTranspose1d`, in place of the above. The output
            is then not always `steps * stride` long.
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
        padding: int | None = None,
        fused: bool = False,
        pad_mode: str = "constant",
    ) -> None:
        excess = kernel_size - stride
        if padding is None:
            trim_right = math.ceil(excess * trim_right_ratio) if causal else excess // 2
            super().__init__(kernel_size, stride, out_channels, excess - trim_right, pad_mode=pad_mode)
        else:
            super().__init__(kernel_size, stride, out_channels, padding, padding, pad_mode)
        conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=bias)
        self.conv, self.norm = with_norm(conv, norm_type, fused)

    def compute(self, x: Tensor) -> Tensor:
        # The bias comes after the sum: in a stream, outputs of two calls overlap.
        if _runs_as_products(self.conv, x):
            return cpu_inference.convolve_transposed(x, self.inference_weight, self.stride)
        return F.conv_transpose1d(x, self.conv.weight, None, stride=self.stride, groups=self.conv.groups)

    def finish(self, y: Tensor, lengths: Tensor | None = None) -> Tensor:
        if self.conv.bias is not None:
            y = y + self.conv.bias[:, None]
        return y if self.norm is None else self.norm(y, lengths)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        refuse_stream(self.norm, time)
        return super().forward(x, time)

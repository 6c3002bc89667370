"""HiFi-GAN's generator and its parts: residual blocks with several receptive fields side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .conv import Conv1d, ConvTranspose1d, TimeGroupNorm, refuse_stream
from .streaming import Stream, TimeContext, aligned, cached_frames, delayed, in_pieces

# Of every leaky ReLU but, in some models, the last.
SLOPE = 0.1
# What `torch.nn.LeakyReLU` does unless told otherwise, and HiFi-GAN therefore before its last convolution.
FINAL_SLOPE = 0.01
# Of the first and the last convolution, in every published model.
_OUTER_KERNEL = 7


class HifiGanResidualStep(nn.Module):
    """`x + conv(act(... conv(act(x))))`.

    Args:
        channels: in and out.
        kernel_size: of every convolution.
        dilations: one for each convolution.
        conv_options: causal, norm_type, fused, ...: what else every `Conv1d` is given.
    """

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int], conv_options: dict) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [Conv1d(channels, channels, kernel_size, dilation=dilation, **conv_options) for dilation in dilations]
        )

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(F.leaky_relu(y, SLOPE), time)
        return y + delayed(self, x, y.shape[-1], time)


class HifiGanResidualBlock(nn.Module):
    """Residual steps, one for each dilation.

    Args:
        channels, kernel_size, conv_options: as in `HifiGanResidualStep`.
        dilations: of the first convolution of each step.
        paired: a second, undilated convolution in every step: HiFi-GAN's "ResBlock1"; without it, "ResBlock2".

    Source: Kong et al., 2020, "HiFi-GAN", section 2.3 and appendix A.1.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilations: Sequence[int],
        paired: bool = True,
        conv_options: dict | None = None,
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            [
                HifiGanResidualStep(
                    channels, kernel_size, (dilation, 1) if paired else (dilation,), conv_options or {}
                )
                for dilation in dilations
            ]
        )

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        for step in self.steps:
            x = step(x, time)
        return x


class HifiGanFusion(nn.Module):
    """The mean of residual blocks with different receptive fields.

    Args:
        channels, paired, conv_options: as in `HifiGanResidualBlock`.
        kernel_sizes: one for each block.
        dilations: a list for each block.
        norm_channels: normalise the running sum after every block, in groups of this many channels over all of time;
            `None`: no such norm. With it, nothing can be streamed. Source: `Encoder` in
            `academicodec/models/hificodec/models.py`.
    """

    def __init__(
        self,
        channels: int,
        kernel_sizes: Sequence[int],
        dilations: Sequence[Sequence[int]],
        paired: bool = True,
        conv_options: dict | None = None,
        norm_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                HifiGanResidualBlock(channels, kernel_size, steps, paired, conv_options)
                for kernel_size, steps in zip(kernel_sizes, dilations, strict=True)
            ]
        )
        self.norms = None
        if norm_channels is not None:
            self.norms = nn.ModuleList(
                [TimeGroupNorm(channels, groups=channels // norm_channels, eps=1e-6) for _ in self.blocks]
            )

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        if self.norms is not None:
            return self._normalized(x, time)
        parts = aligned(self.blocks, [block(x, time) for block in self.blocks], time)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total / len(parts)

    def _normalized(self, x: Tensor, time: TimeContext | None) -> Tensor:
        refuse_stream(self.norms, time)
        total = None
        for block, norm in zip(self.blocks, self.norms, strict=True):
            part = block(x, time)
            total = norm(part if total is None else total + part, None if time is None else time.lengths)
        return total / len(self.blocks)


class HifiGanGroupedBlock(nn.Module):
    """One residual block over several copies of its input, each with convolutions of its own, joined by a linear map.

    It stands for a `HifiGanFusion` of as many blocks, and runs in fewer, larger convolutions.

    Args:
        channels, kernel_size, dilations, paired, conv_options: as in `HifiGanResidualBlock`.
        groups: copies.

    Source: Wu et al., 2023, "AudioDec"; `MultiGroupConv1d` in `layers/conv_layer.py`.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilations: Sequence[int],
        groups: int,
        paired: bool = True,
        conv_options: dict | None = None,
    ) -> None:
        super().__init__()
        self.groups = groups
        options = conv_options or {}
        self.block = HifiGanResidualBlock(
            channels * groups, kernel_size, dilations, paired, {**options, "groups": groups}
        )
        self.join = Conv1d(channels * groups, channels, 1, **{**options, "bias": False})

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.join(self.block(x.repeat(1, self.groups, 1), time), time)


class HifiGanStage(nn.Module):
    """A transposed convolution, then residual blocks.

    Args:
        channels, out_channels: in and out.
        ratio, kernel_size: of the transposed convolution, which gives `ratio` steps for one.
        blocks: of `out_channels`.
        up_options: what else `ConvTranspose1d` is given.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        ratio: int,
        kernel_size: int,
        blocks: nn.Module,
        up_options: dict,
    ) -> None:
        super().__init__()
        self.up = ConvTranspose1d(channels, out_channels, kernel_size, stride=ratio, **up_options)
        self.blocks = blocks

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.blocks(self.up(F.leaky_relu(x, SLOPE), time), time)


class HifiGanGenerator(nn.Module):
    """Features `(batch, in_channels, frames)` to waveform `(batch, 1, frames * prod(ratios))` in [-1, 1].

    Args:
        in_channels: of the features.
        channels: after the first convolution; halved at every stage.
        ratios, up_kernel_sizes: steps per step, and kernel, of each stage.
        kernel_sizes, dilations: of the residual blocks, see `HifiGanFusion`.
        paired: see `HifiGanResidualBlock`.
        groups: above 1 with one kernel size, `HifiGanGroupedBlock` instead of `HifiGanFusion`; with several, of the
            convolutions in the blocks.
        final_slope: of the leaky ReLU before the last convolution.
        outer_kernel_size: of the first and the last convolution.
        conv_options: causal, norm_type, fused, ...: what else every `Conv1d` is given.
        up_options: what else every `ConvTranspose1d` is given. Unless causal, with HiFi-GAN's padding of
            `(kernel - ratio) // 2`: an odd difference gives one step more than `steps * ratio`.

    Source: Kong et al., 2020, "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech
    Synthesis", section 2.2.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        ratios: Sequence[int],
        up_kernel_sizes: Sequence[int],
        kernel_sizes: Sequence[int],
        dilations: Sequence[Sequence[int]],
        conv_options: dict,
        up_options: dict,
        paired: bool = True,
        groups: int = 1,
        final_slope: float = FINAL_SLOPE,
        outer_kernel_size: int = _OUTER_KERNEL,
    ) -> None:
        super().__init__()
        self.final_slope = final_slope
        self.hop_length = math.prod(ratios)
        self.first = Conv1d(in_channels, channels, outer_kernel_size, **conv_options)
        stages, width = [], channels
        for ratio, up_kernel_size in zip(ratios, up_kernel_sizes, strict=True):
            narrow = width // 2
            if groups > 1 and len(kernel_sizes) == 1:
                blocks = HifiGanGroupedBlock(narrow, kernel_sizes[0], dilations[0], groups, paired, conv_options)
            else:
                blocks = HifiGanFusion(narrow, kernel_sizes, dilations, paired, {**conv_options, "groups": groups})
            padding = None if up_options.get("causal", True) else (up_kernel_size - ratio) // 2
            options = {**up_options, "padding": padding}
            stages.append(HifiGanStage(width, narrow, ratio, up_kernel_size, blocks, options))
            width = narrow
        self.stages = nn.ModuleList(stages)
        self.last = Conv1d(width, 1, outer_kernel_size, **conv_options)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.first(x, time)
        if not isinstance(time, Stream):
            return self._stages(x, time)
        frames = cached_frames(len(x), self.last.conv.in_channels, self.hop_length)
        return in_pieces(self._stages, x, time, frames)

    def _stages(self, x: Tensor, time: TimeContext | None) -> Tensor:
        for stage in self.stages:
            x = stage(x, time)
        return self.last(F.leaky_relu(x, self.final_slope), time).tanh()


class HifiGanDownStage(nn.Module):
    """A strided convolution, then residual blocks: a `HifiGanStage` backwards.

    Args:
        channels, out_channels: in and out.
        ratio, kernel_size: of the strided convolution, which gives one step for `ratio`.
        blocks: of `out_channels`.
        conv_options: what else `Conv1d` is given.
    """

    def __init__(
        self, channels: int, out_channels: int, ratio: int, kernel_size: int, blocks: nn.Module, conv_options: dict
    ) -> None:
        super().__init__()
        padding = (kernel_size - ratio) // 2
        self.down = Conv1d(channels, out_channels, kernel_size, stride=ratio, padding=padding, **conv_options)
        self.blocks = blocks

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.blocks(self.down(F.leaky_relu(x, SLOPE), time), time)


class HifiGanEncoder(nn.Module):
    """A waveform `(batch, 1, samples)` to features `(batch, out_channels, frames)`: the generator mirrored.

    Its norms over time look at the whole signal, so it cannot be streamed. A stage with an even `kernel - ratio` gives
    `steps // ratio` steps.

    Args:
        out_channels: of the features.
        channels: after the first convolution; doubled at every stage.
        ratios, down_kernel_sizes, kernel_sizes, dilations, paired: as of the generator that it mirrors, whose stages
            and blocks it has in reverse.
        norm_channels: see `HifiGanFusion`.
        fused: build plain weights where there would be weight norm; the last convolution has none.

    Source: `Encoder` in `academicodec/models/hificodec/models.py`.
    """

    _LAST_KERNEL = 3

    def __init__(
        self,
        out_channels: int,
        channels: int,
        ratios: Sequence[int],
        down_kernel_sizes: Sequence[int],
        kernel_sizes: Sequence[int],
        dilations: Sequence[Sequence[int]],
        paired: bool,
        norm_channels: int,
        fused: bool,
    ) -> None:
        super().__init__()
        options = {"causal": False, "norm_type": "weight_norm", "fused": fused}
        self.first = Conv1d(1, channels, _OUTER_KERNEL, **options)
        stages = []
        for ratio, down_kernel_size in zip(reversed(ratios), reversed(down_kernel_sizes), strict=True):
            blocks = HifiGanFusion(
                2 * channels, kernel_sizes[::-1], dilations[::-1], paired, options, norm_channels=norm_channels
            )
            stages.append(HifiGanDownStage(channels, 2 * channels, ratio, down_kernel_size, blocks, options))
            channels *= 2
        self.stages = nn.ModuleList(stages)
        self.last = Conv1d(channels, out_channels, self._LAST_KERNEL, causal=False)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.first(x, time)
        for stage in self.stages:
            x = stage(x, time)
        return self.last(F.leaky_relu(x, FINAL_SLOPE), time)

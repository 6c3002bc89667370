"""SEANet over frequency and time: spectra to latents and back, for FunCodec's frequency domain.

Tensors are `(batch, channels, bins, steps)` until the bins have been folded into one, then as in `seanet`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .conv import Conv1d
from .conv2d import Conv2d, ConvTranspose2d
from .lstm import ResidualLSTM
from .seanet import activation_by_name, run_layers
from .streaming import TimeContext, delayed


def _groups(channels: int, ratio: int | None) -> int:
    """How many groups have `2 * ratio` of `channels` each; one where no ratio is given."""
    groups = 1 if ratio is None else channels // 2 // ratio
    if groups == 0:
        raise ValueError(f"group ratio {ratio} asks for {2 * ratio} channels a group, but there are only {channels}.")
    return groups


class _FoldBins(nn.Module):
    """`(batch, channels, 1, steps)` to `(batch, channels, steps)`."""

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return x.squeeze(2)


class _UnfoldBins(nn.Module):
    """`(batch, channels, steps)` to `(batch, channels, 1, steps)`."""

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return x.unsqueeze(2)


class SeanetResidualUnit2d(nn.Module):
    """`SeanetResidualUnit` over frequency and time.

    Args:
        channels: input and output channels.
        bins: of the input and output.
        kernel_size: of the first convolution, along both axes; the second has kernel 1.
        dilation: of the first convolution, along time only.
        compress: the bottleneck has `channels // compress` channels.
        use_conv_shortcut: the skip is a kernel-1 convolution instead of the identity.
        group_ratio: each group of a convolution has twice as many input or output channels, whichever are fewer;
            `None`: one group.
        conv_options: causal, pad_mode, norm_type and fused, for every `Conv2d`.
        activation: one of `seanet.ACTIVATIONS`, before each convolution of the block.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        kernel_size: int,
        dilation: int,
        compress: int,
        use_conv_shortcut: bool,
        group_ratio: int | None,
        conv_options: dict,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        hidden = channels // compress
        options = {"bins": bins, "groups": _groups(hidden, group_ratio), **conv_options}
        self.block = nn.ModuleList(
            [
                activation_by_name(activation, channels),
                Conv2d(channels, hidden, (kernel_size, kernel_size), dilation=(1, dilation), **options),
                activation_by_name(activation, hidden),
                Conv2d(hidden, channels, (1, 1), **options),
            ]
        )
        options["groups"] = _groups(channels, group_ratio)
        self.shortcut = Conv2d(channels, channels, (1, 1), **options) if use_conv_shortcut else None

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = run_layers(self.block, x, time)
        skip = delayed(self, x.flatten(1, 2), y.shape[-1], time).unflatten(1, x.shape[1:3])
        return y + (skip if self.shortcut is None else self.shortcut(skip, time))


class SeanetEncoder2d(nn.Module):
    """Planes of a spectrum `(batch, planes, bins, steps)` to latents `(batch, dimension, steps / prod(ratios))`.

    Args:
        planes: input channels.
        bins: of a spectrum; the frequency strides must fold them into one.
        dimension: latent channels.
        num_filters: channels after the first convolution; doubled at every stage.
        frequency_ratios, ratios: strides of each stage along frequency and time, in the decoder's order.
        num_residual_layers: residual units per stage, dilated by `dilation_growth_rate ** index`.
        kernel_size: of the first convolution, along both axes.
        last_kernel_size: of the last convolution, which is along time only.
        residual_kernel_size, dilation_growth_rate, compress, use_conv_shortcut: see `SeanetResidualUnit2d`.
        group_ratio: of the convolutions in residual units and of the strided ones, see `SeanetResidualUnit2d`.
        num_lstm_layers: LSTM layers at the frame rate; 0 for none.
        conv_options: causal, pad_mode, norm_type and fused, for every convolution.
        activation: one of `seanet.ACTIVATIONS`, before every convolution but the first.

    Source: `SEANetEncoder2d` in `funcodec/models/encoder/seanet_encoder.py`.
    """

    def __init__(
        self,
        planes: int,
        bins: int,
        dimension: int,
        num_filters: int,
        frequency_ratios: Sequence[int],
        ratios: Sequence[int],
        num_residual_layers: int,
        kernel_size: int,
        last_kernel_size: int,
        residual_kernel_size: int,
        dilation_growth_rate: int,
        compress: int,
        use_conv_shortcut: bool,
        group_ratio: int | None,
        num_lstm_layers: int,
        conv_options: dict,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        width = num_filters
        layers: list[nn.Module] = [Conv2d(planes, width, (kernel_size, kernel_size), bins, **conv_options)]
        for stride in zip(reversed(frequency_ratios), reversed(ratios), strict=True):
            for index in range(num_residual_layers):
                dilation = dilation_growth_rate**index
                layers.append(
                    SeanetResidualUnit2d(
                        width,
                        bins,
                        residual_kernel_size,
                        dilation,
                        compress,
                        use_conv_shortcut,
                        group_ratio,
                        conv_options,
                        activation,
                    )
                )
            down = Conv2d(
                width,
                width * 2,
                (2 * stride[0], 2 * stride[1]),
                bins,
                stride=stride,
                groups=_groups(width, group_ratio),
                **conv_options,
            )
            layers += [activation_by_name(activation, width), down]
            width, bins = width * 2, down.out_bins
        if bins != 1:
            raise ValueError(f"frequency_ratios {tuple(frequency_ratios)} leave {bins} bins; they must leave one.")
        layers.append(_FoldBins())
        if num_lstm_layers:
            layers.append(ResidualLSTM(width, num_lstm_layers))
        layers += [activation_by_name(activation, width), Conv1d(width, dimension, last_kernel_size, **conv_options)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return run_layers(self.layers, x, time)


class SeanetDecoder2d(nn.Module):
    """Latents `(batch, dimension, frames)` to planes `(batch, planes, prod(frequency_ratios) + 1, steps)`.

    There are `frames * prod(ratios)` steps. The last transposed convolution keeps one bin more than its strides give,
    because a one-sided spectrum has one more than half its window.

    Args:
        planes: output channels.
        group_ratio: of the convolutions in residual units.
        transposed_group_ratio: of the transposed convolutions; each group has twice as many of their input channels.
        trim_right_ratio: see `ConvTranspose1d`.
        **others: as in `SeanetEncoder2d`; `kernel_size` is that of the first convolution (along time only),
            `last_kernel_size` that of the last (along both axes).

    Source: `SEANetDecoder2d` in `funcodec/models/decoder/seanet_decoder.py`.
    """

    def __init__(
        self,
        planes: int,
        dimension: int,
        num_filters: int,
        frequency_ratios: Sequence[int],
        ratios: Sequence[int],
        num_residual_layers: int,
        kernel_size: int,
        last_kernel_size: int,
        residual_kernel_size: int,
        dilation_growth_rate: int,
        compress: int,
        use_conv_shortcut: bool,
        group_ratio: int | None,
        transposed_group_ratio: int | None,
        num_lstm_layers: int,
        trim_right_ratio: float,
        conv_options: dict,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        width, bins = num_filters * 2 ** len(ratios), 1
        up_options = {name: value for name, value in conv_options.items() if name != "pad_mode"}
        layers: list[nn.Module] = [Conv1d(dimension, width, kernel_size, **conv_options)]
        if num_lstm_layers:
            layers.append(ResidualLSTM(width, num_lstm_layers))
        layers.append(_UnfoldBins())
        for stage, stride in enumerate(zip(frequency_ratios, ratios, strict=True), start=1):
            up = ConvTranspose2d(
                width,
                width // 2,
                (2 * stride[0], 2 * stride[1]),
                bins,
                stride=stride,
                groups=_groups(width, transposed_group_ratio),
                trim_right_ratio=trim_right_ratio,
                extra_bins=int(stage == len(ratios)),
                **up_options,
            )
            layers += [activation_by_name(activation, width), up]
            width, bins = width // 2, up.out_bins
            for index in range(num_residual_layers):
                dilation = dilation_growth_rate**index
                layers.append(
                    SeanetResidualUnit2d(
                        width,
                        bins,
                        residual_kernel_size,
                        dilation,
                        compress,
                        use_conv_shortcut,
                        group_ratio,
                        conv_options,
                        activation,
                    )
                )
        last = Conv2d(width, planes, (last_kernel_size, last_kernel_size), bins, **conv_options)
        layers += [activation_by_name(activation, width), last]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return run_layers(self.layers, x, time)

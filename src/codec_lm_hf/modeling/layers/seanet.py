"""SEANet encoder and decoder: the waveform backbone of SoundStream, EnCodec and their relatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedConfig

from . import cpu_inference
from .conv import Conv1d, ConvTranspose1d
from .lstm import ResidualLSTM
from .snake import Snake
from .streaming import Stream, TimeContext, cached_frames, delayed, in_pieces

ACTIVATIONS = ("elu", "leaky_relu", "snake")
# Of a leaky ReLU.
SLOPE = 0.2


def activation_by_name(name: str, channels: int | None = None, slope: float = SLOPE) -> nn.Module:
    """One of `ACTIVATIONS`; snake has a parameter for each of `channels`, a leaky ReLU a `slope`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {name!r}.")
    if name == "snake":
        return Snake(channels)
    return nn.ELU() if name == "elu" else nn.LeakyReLU(slope)


def activate(activation: nn.Module, x: Tensor) -> Tensor:
    """`activation(x)`, by the faster arithmetic where there is one."""
    return cpu_inference.elu(x) if isinstance(activation, nn.ELU) else activation(x)


def run_layers(layers: Sequence[nn.Module], x: Tensor, time: TimeContext | None) -> Tensor:
    """One after the other; activations know nothing of time."""
    for layer in layers:
        x = activate(layer, x) if isinstance(layer, (nn.ELU, nn.LeakyReLU, Snake)) else layer(x, time)
    return x


class SeanetResidualUnit(nn.Module):
    """Two convolutions around a bottleneck, plus a skip connection.

    Args:
        channels: input and output channels.
        kernel_size, dilation: of the first convolution; the second has kernel 1.
        compress: the bottleneck has `channels // compress` channels.
        use_conv_shortcut: the skip is a kernel-1 convolution instead of the identity.
        conv_options: causal, pad_mode, norm_type and fused, for every `Conv1d`.
        activation: one of `ACTIVATIONS`, before each convolution of the block.
        slope: of a leaky ReLU.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilation: int,
        compress: int,
        use_conv_shortcut: bool,
        conv_options: dict,
        activation: str = "elu",
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        hidden = channels // compress
        self.block = nn.ModuleList(
            [
                activation_by_name(activation, channels, slope),
                Conv1d(channels, hidden, kernel_size, dilation=dilation, **conv_options),
                activation_by_name(activation, hidden, slope),
                Conv1d(hidden, channels, 1, **conv_options),
            ]
        )
        self.shortcut = Conv1d(channels, channels, 1, **conv_options) if use_conv_shortcut else None

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        y = run_layers(self.block, x, time)
        skip = delayed(self, x, y.shape[-1], time)
        return y + skip if self.shortcut is None else self.shortcut.added_to(y, skip, time)


class SeanetEncoder(nn.Module):
    """Waveform `(batch, channels, samples)` to latents `(batch, dimension, frames)`.

    Args:
        channels: audio channels.
        dimension: latent channels.
        num_filters: channels after the first convolution; doubled at every stage.
        ratios: stride of each stage, in the *decoder's* order (the encoder runs them backwards), as in EnCodec.
        num_residual_layers: residual units per stage, dilated by `dilation_growth_rate ** index`.
        kernel_size, last_kernel_size, residual_kernel_size, compress, use_conv_shortcut: see `SeanetResidualUnit`.
        num_lstm_layers: LSTM layers at the frame rate; 0 for none.
        conv_options: causal, pad_mode, norm_type and fused, for every convolution.
        activation: one of `ACTIVATIONS`, before every convolution but the first.
        bidirectional_lstm: see `ResidualLSTM`; the last convolution then sees twice the channels.

    Source: SoundStream, section III; `encodec/modules/seanet.py`; for the last two arguments
    `speechtokenizer/modules/seanet.py`.
    """

    def __init__(
        self,
        channels: int,
        dimension: int,
        num_filters: int,
        ratios: Sequence[int],
        num_residual_layers: int,
        kernel_size: int,
        last_kernel_size: int,
        residual_kernel_size: int,
        dilation_growth_rate: int,
        compress: int,
        use_conv_shortcut: bool,
        num_lstm_layers: int,
        conv_options: dict,
        activation: str = "elu",
        bidirectional_lstm: bool = False,
    ) -> None:
        super().__init__()
        width = num_filters
        layers: list[nn.Module] = [Conv1d(channels, width, kernel_size, **conv_options)]
        for ratio in reversed(ratios):
            for index in range(num_residual_layers):
                dilation = dilation_growth_rate**index
                layers.append(
                    SeanetResidualUnit(
                        width, residual_kernel_size, dilation, compress, use_conv_shortcut, conv_options, activation
                    )
                )
            layers += [
                activation_by_name(activation, width),
                Conv1d(width, width * 2, ratio * 2, stride=ratio, **conv_options),
            ]
            width *= 2
        if num_lstm_layers:
            layers.append(ResidualLSTM(width, num_lstm_layers, bidirectional_lstm))
            width = layers[-1].out_channels
        layers += [activation_by_name(activation, width), Conv1d(width, dimension, last_kernel_size, **conv_options)]
        self.layers = nn.ModuleList(layers)
        self.hop_length = math.prod(ratios)
        self.num_filters = num_filters
        self.num_last = 2 + (num_lstm_layers > 0)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        if not isinstance(time, Stream):
            return run_layers(self.layers, x, time)
        # What runs at the frame rate, the LSTM above all, is best done for many frames at once.
        layers = list(self.layers)
        strided, last = layers[: -self.num_last], layers[-self.num_last :]
        frames = cached_frames(len(x), self.num_filters, self.hop_length)
        x = in_pieces(functools.partial(run_layers, strided), x, time, frames * self.hop_length)
        return run_layers(last, x, time)


class SeanetDecoder(nn.Module):
    """Latents `(batch, dimension, frames)` to waveform `(batch, channels, frames * prod(ratios))`.

    Arguments as in `SeanetEncoder`; `trim_right_ratio` as in `ConvTranspose1d`.
    """

    def __init__(
        self,
        channels: int,
        dimension: int,
        num_filters: int,
        ratios: Sequence[int],
        num_residual_layers: int,
        kernel_size: int,
        last_kernel_size: int,
        residual_kernel_size: int,
        dilation_growth_rate: int,
        compress: int,
        use_conv_shortcut: bool,
        num_lstm_layers: int,
        trim_right_ratio: float,
        conv_options: dict,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        width = num_filters * 2 ** len(ratios)
        up_options = {name: value for name, value in conv_options.items() if name != "pad_mode"}
        layers: list[nn.Module] = [Conv1d(dimension, width, kernel_size, **conv_options)]
        if num_lstm_layers:
            layers.append(ResidualLSTM(width, num_lstm_layers))
        for ratio in ratios:
            layers += [
                activation_by_name(activation, width),
                ConvTranspose1d(
                    width, width // 2, ratio * 2, stride=ratio, trim_right_ratio=trim_right_ratio, **up_options
                ),
            ]
            width //= 2
            for index in range(num_residual_layers):
                dilation = dilation_growth_rate**index
                layers.append(
                    SeanetResidualUnit(
                        width, residual_kernel_size, dilation, compress, use_conv_shortcut, conv_options, activation
                    )
                )
        layers += [activation_by_name(activation, width), Conv1d(width, channels, last_kernel_size, **conv_options)]
        self.layers = nn.ModuleList(layers)
        self.hop_length = math.prod(ratios)
        self.num_filters = num_filters
        self.num_first = 1 + (num_lstm_layers > 0)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        if not isinstance(time, Stream):
            return run_layers(self.layers, x, time)
        layers = list(self.layers)
        x = run_layers(layers[: self.num_first], x, time)
        frames = cached_frames(len(x), self.num_filters, self.hop_length)
        return in_pieces(functools.partial(run_layers, layers[self.num_first :]), x, time, frames)


def seanet_options(config: PreTrainedConfig) -> dict:
    """Arguments of encoder and decoder but for `channels`, by the fields that EnCodec's configuration has."""
    return {
        "dimension": config.hidden_size,
        "num_filters": config.num_filters,
        "ratios": config.upsampling_ratios,
        "num_residual_layers": config.num_residual_layers,
        "kernel_size": config.kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "dilation_growth_rate": config.dilation_growth_rate,
        "compress": config.compress,
        "use_conv_shortcut": config.use_conv_shortcut,
        "num_lstm_layers": config.num_lstm_layers,
        "conv_options": {
            "causal": config.use_causal_conv,
            "pad_mode": config.pad_mode,
            "norm_type": config.norm_type,
            "fused": config.fused,
        },
    }

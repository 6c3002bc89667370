"""SoundStream as released with Lyra V2: separable convolutions, 4-bit codebooks, int8 next to the latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration.soundstream_lyra import LyraCodecConfig
from .codec_semantic import SemanticCodecModel
from .layers.conv import Conv1d, ConvTranspose1d
from .layers.convnext import ConvNeXtContext
from .layers.int8 import Int8ConvTranspose1d, Int8Grid, OrderedConv1d
from .layers.separable import SeparableResidualUnit, conv1d, leaky_relu
from .layers.streaming import TimeContext


def _int8(config: LyraCodecConfig) -> str | None:
    """How the layers next to the latents compute, as `layers.int8` has it."""
    return None if config.arithmetic == "float" else config.arithmetic


def _units(config: LyraCodecConfig, stage: int, int8_of_first: str, int8_of_rest: str) -> nn.ModuleList:
    return nn.ModuleList(
        SeparableResidualUnit(
            config.channels[stage],
            config.residual_kernel_size,
            dilation,
            config.groups[stage],
            config.leaky_relu_slope,
            int8_of_first if index == 0 else int8_of_rest,
            _int8(config),
        )
        for index, dilation in enumerate(config.residual_dilations)
    )


def _context(config: LyraCodecConfig, layers: int) -> ConvNeXtContext | None:
    """A longer memory beside the latents, which Lyra V2 has not; `None` without layers."""
    if not layers:
        return None
    sizes = config.context_size, layers, config.context_kernel_size, config.context_expansion
    return ConvNeXtContext(config.hidden_size, *sizes)


class LyraEncoderStage(nn.Module):
    """Residual units, then a strided convolution to the next stage's channels.

    Args:
        config: of the model.
        stage: index into `config.channels`. The last stage computes in int8, from its first unit's output convolution
            on.
    """

    def __init__(self, config: LyraCodecConfig, stage: int) -> None:
        super().__init__()
        last = stage == len(config.groups) - 1
        arithmetic = _int8(config) if last else None
        stride = config.strides[stage + 1]
        self.units = _units(config, stage, *(("output", "all") if last else ("none", "none")))
        self.activation = leaky_relu(config.leaky_relu_slope, arithmetic)
        self.down = conv1d(
            *config.channels[stage : stage + 2], 2 * stride, arithmetic, stride=stride, groups=config.groups[stage]
        )

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        for unit in self.units:
            x = unit(x, time)
        return self.down(self.activation(x), time)


class LyraEncoder(nn.Module):
    """Waveform `(batch, channels, samples)` to latents `(batch, hidden_size, frames)`."""

    def __init__(self, config: LyraCodecConfig) -> None:
        super().__init__()
        self.first = Conv1d(config.audio_channels, config.channels[0], config.kernel_size, stride=config.strides[0])
        self.stages = nn.ModuleList(LyraEncoderStage(config, stage) for stage in range(len(config.groups)))
        self.activation = leaky_relu(config.leaky_relu_slope, _int8(config))
        self.last = conv1d(
            config.channels[-1],
            config.hidden_size,
            config.latent_kernel_size,
            _int8(config),
            groups=config.groups[-1],
        )
        self.context = _context(config, config.encoder_context_layers)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.first(x, time)
        for stage in self.stages:
            x = stage(x, time)
        x = self.last(self.activation(x), time)
        return x if self.context is None else self.context(x, time)


class LyraDecoderStage(nn.Module):
    """A transposed convolution to this stage's channels, then residual units.

    Args:
        config: of the model.
        stage: index into `config.channels`. The stage next to the latents computes in int8, and so do the activation
            and the transposed convolution that follow it.
    """

    def __init__(self, config: LyraCodecConfig, stage: int) -> None:
        super().__init__()
        below = len(config.groups) - 1 - stage
        stride = config.strides[stage + 1]
        channels, out_channels = config.channels[stage + 1], config.channels[stage]
        groups = config.groups[stage]
        arithmetic = _int8(config) if below < 2 else None
        self.activation = leaky_relu(config.leaky_relu_slope, arithmetic if below == 1 else None)
        if arithmetic is not None:
            block = math.prod(config.strides[stage + 2 :])
            self.up = Int8ConvTranspose1d(channels, out_channels, 2 * stride, stride, groups, block, arithmetic)
        else:
            self.up = ConvTranspose1d(channels, out_channels, 2 * stride, stride=stride, groups=groups)
        self.units = _units(config, stage, *(("convolutions", "all") if below == 0 else ("none", "none")))

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.up(self.activation(x), time)
        for unit in self.units:
            x = unit(x, time)
        return x


class LyraDecoder(nn.Module):
    """Latents `(batch, hidden_size, frames)` to waveform `(batch, channels, frames * hop_length)`."""

    def __init__(self, config: LyraCodecConfig) -> None:
        super().__init__()
        self.context = _context(config, config.decoder_context_layers)
        sizes = config.hidden_size, config.channels[-1], config.latent_kernel_size
        if _int8(config) is None:
            self.first = Conv1d(*sizes, groups=config.groups[-1])
        else:
            self.first = OrderedConv1d(*sizes, groups=config.groups[-1], arithmetic=_int8(config))
        self.stages = nn.ModuleList(LyraDecoderStage(config, stage) for stage in reversed(range(len(config.groups))))
        self.activation = leaky_relu(config.leaky_relu_slope, None)
        self.last = ConvTranspose1d(
            config.channels[0], config.audio_channels, config.kernel_size, stride=config.strides[0]
        )

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        if self.context is not None:
            x = self.context(x, time)
        x = self.first(x, time)
        for stage in self.stages:
            x = stage(x, time)
        return self.last(self.activation(x), time)


class LyraCodecModel(SemanticCodecModel):
    """The codec of Lyra V2, a streaming relative of SoundStream (Zeghidour et al., 2021)."""

    config: LyraCodecConfig
    config_class = LyraCodecConfig
    # Of a checkpoint with int8 layers that is loaded with arithmetic="float".
    _keys_to_ignore_on_load_unexpected = [r"grid\.(scale|zero_point)$"]

    def __init__(self, config: LyraCodecConfig) -> None:
        super().__init__(config)
        self.encoder = LyraEncoder(config)
        self.decoder = LyraDecoder(config)
        self.quantizer = self._residual_quantizer(config.hidden_size)
        self.semantic_projection = self._semantic_projection(config.hidden_size, config.semantic_hidden_size)
        self.post_init()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.encoder(audio, time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.decoder(latents, time)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            init.kaiming_uniform_(module.weight, a=1)
        if isinstance(module, Int8Grid):
            init.constant_(module.scale, module.initial_scale)
            init.zeros_(module.zero_point)

"""AudioDec: a causal autoencoder, and the causal HiFi-GAN that can take its decoder's place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration.audiodec import AudioDecCodecConfig
from .codec_base import CodecPreTrainedModel
from .layers.conv import Conv1d, ConvTranspose1d, windows_through
from .layers.hifigan import HifiGanGenerator
from .layers.seanet import SeanetResidualUnit, activate, activation_by_name
from .layers.streaming import Stream, TimeContext, at_least, cached_frames, filled_up, in_pieces

_KERNEL = 7
_PROJECTOR_KERNEL = 3
_DILATIONS = (1, 3, 9)


def _conv_options(config: AudioDecCodecConfig) -> dict:
    """Of the autoencoder's convolutions that keep the rate."""
    return {
        "causal": config.use_causal_conv,
        "bias": False,
        "norm_type": config.norm_type,
        "fused": config.fused,
    }


def _activation(config: AudioDecCodecConfig) -> nn.Module:
    return activation_by_name(config.activation, slope=config.negative_slope)


def _outer_activation(config: AudioDecCodecConfig) -> nn.Module | None:
    return _activation(config) if config.use_outer_activations else None


def _residual_units(config: AudioDecCodecConfig, channels: int) -> nn.ModuleList:
    """SEANet's units without a bottleneck."""
    options = {
        "compress": 1,
        "use_conv_shortcut": False,
        "conv_options": _conv_options(config),
        "activation": config.activation,
        "slope": config.negative_slope,
    }
    return nn.ModuleList(
        [SeanetResidualUnit(channels, _KERNEL, dilation=dilation, **options) for dilation in _DILATIONS]
    )


def _run(layers: nn.ModuleList, x: Tensor, time: TimeContext | None) -> Tensor:
    for layer in layers:
        x = layer(x, time)
    return x


class AudioDecEncoderStage(nn.Module):
    """Residual units, then a strided convolution. When causal, a window ends with the first sample of its stride."""

    def __init__(self, config: AudioDecCodecConfig, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.units = _residual_units(config, channels)
        padding = (2 * stride - 1, 0) if config.use_causal_conv else stride - 1
        options = {**_conv_options(config), "bias": config.use_strided_bias, "padding": padding}
        self.down = Conv1d(channels, out_channels, 2 * stride, stride=stride, **options)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.down(_run(self.units, x, time), time)


class AudioDecEncoder(nn.Module):
    """Audio `(batch, channels, samples)` to latents `(batch, hidden_size, frames)`. Its last layer is the "projector".

    Source: `models/autoencoder/AudioDec.py`.
    """

    def __init__(self, config: AudioDecCodecConfig) -> None:
        super().__init__()
        self.config = config
        width = config.encoder_channels
        self.first = Conv1d(config.audio_channels, width, _KERNEL, **_conv_options(config))
        stages = []
        for ratio, stride in zip(config.encoder_ratios, config.encoder_strides, strict=True):
            stages.append(AudioDecEncoderStage(config, width, config.encoder_channels * ratio, stride))
            width = config.encoder_channels * ratio
        self.stages = nn.ModuleList(stages)
        # Whether there is a last frame depends on the signal's length then.
        self.whole_signal = not config.use_causal_conv
        self.activation = _outer_activation(config)
        self.last = Conv1d(width, config.hidden_size, _PROJECTOR_KERNEL, **_conv_options(config))

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.last(self.features(x, time), time)

    def features(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """What the last convolution projects, `(batch, width, frames)`."""
        if isinstance(time, Stream):
            frames = cached_frames(len(x), self.config.encoder_channels, self.config.hop_length)
            x = in_pieces(self._strided, x, time, frames * self.config.hop_length)
        else:
            x = self._strided(x, time)
        return x if self.activation is None else activate(self.activation, x)

    def _strided(self, x: Tensor, time: TimeContext | None) -> Tensor:
        return _run(self.stages, self.first(x, time), time)


class AudioDecDecoderStage(nn.Module):
    """A transposed convolution, with an activation before it or without, then residual units."""

    def __init__(self, config: AudioDecCodecConfig, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.activation = _outer_activation(config)
        pad_mode = config.decoder_pad_mode if config.use_causal_conv else "constant"
        options = {**_conv_options(config), "bias": config.use_strided_bias, "pad_mode": pad_mode}
        self.up = ConvTranspose1d(channels, out_channels, 2 * stride, stride=stride, **options)
        self.units = _residual_units(config, out_channels)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = x if self.activation is None else activate(self.activation, x)
        return _run(self.units, self.up(x, time), time)


class AudioDecDecoder(nn.Module):
    """Latents `(batch, hidden_size, frames)` to audio `(batch, channels, frames * hop_length)`.

    Source: `models/autoencoder/AudioDec.py`.
    """

    def __init__(self, config: AudioDecCodecConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.decoder_channels * ratio for ratio in config.decoder_ratios] + [config.decoder_channels]
        self.first = Conv1d(config.hidden_size, widths[0], _KERNEL, **_conv_options(config))
        self.stages = nn.ModuleList(
            [
                AudioDecDecoderStage(config, width, out_width, stride)
                for width, out_width, stride in zip(widths, widths[1:], config.decoder_strides, strict=False)
            ]
        )
        self.activation = _outer_activation(config)
        self.last = Conv1d(widths[-1], config.audio_channels, _KERNEL, **_conv_options(config))

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.first(x, time)
        if not isinstance(time, Stream):
            return self._stages(x, time)
        frames = cached_frames(len(x), self.config.decoder_channels, self.config.hop_length)
        return in_pieces(self._stages, x, time, frames)

    def _stages(self, x: Tensor, time: TimeContext | None) -> Tensor:
        x = _run(self.stages, x, time)
        if self.activation is None:
            return self.last(x, time)
        return self.last(activate(self.activation, x), time).tanh()


class AudioDecVocoder(nn.Module):
    """Latents `(batch, hidden_size, frames)` to audio `(batch, 1, frames * hop_length)`: statistics, then HiFi-GAN.

    The buffers `mean` and `scale` are those of each channel of the quantized latents of the training set.

    Source: `models/vocoder/HiFiGAN.py`.
    """

    def __init__(self, config: AudioDecCodecConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.hidden_size))
        self.register_buffer("scale", torch.ones(config.hidden_size))
        conv_options = {"causal": True, "norm_type": config.vocoder_norm_type, "fused": config.fused}
        self.generator = HifiGanGenerator(
            config.hidden_size,
            config.vocoder_channels,
            ratios=config.vocoder_ratios,
            up_kernel_sizes=[2 * ratio for ratio in config.vocoder_ratios],
            kernel_sizes=config.vocoder_residual_kernel_sizes,
            dilations=config.vocoder_residual_dilations,
            conv_options=conv_options,
            up_options={**conv_options, "pad_mode": config.decoder_pad_mode},
            paired=config.vocoder_paired_convolutions,
            groups=config.vocoder_groups,
            outer_kernel_size=config.vocoder_kernel_size,
        )

    def reset(self) -> None:
        """Statistics that change nothing."""
        init.zeros_(self.mean)
        init.ones_(self.scale)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.generator((x - self.mean[:, None]) / self.scale[:, None], time)


class AudioDecCodecModel(CodecPreTrainedModel):
    """AudioDec (Wu et al., 2023): an autoencoder, or its encoder and quantizer with a vocoder as the decoder."""

    config: AudioDecCodecConfig
    config_class = AudioDecCodecConfig

    def __init__(self, config: AudioDecCodecConfig) -> None:
        super().__init__(config)
        self.encoder = AudioDecEncoder(config)
        self.quantizer = self._residual_quantizer(config.hidden_size, sum_losses=True)
        self.decoder = AudioDecVocoder(config) if config.decoder_type == "vocoder" else AudioDecDecoder(config)
        self.post_init()

    def _frames_of(self, samples: Tensor | int) -> Tensor | int:
        if self.config.use_causal_conv:
            return super()._frames_of(samples)
        steps = at_least(self.config.hop_length, samples)
        return windows_through([stage.down for stage in self.encoder.stages], steps)

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        if not self.config.use_causal_conv:
            audio = filled_up(audio, self.config.hop_length, time)
        return self.encoder(audio, time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.decoder(latents, time)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AudioDecVocoder):
            module.reset()

"""A codec over short-time spectra; see `configuration.stft_codec`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration.stft_codec import StftCodecConfig
from .codec_base import CodecPreTrainedModel
from .layers.conv import Conv1d
from .layers.convnext import ConvNeXtBlock
from .layers.stft import InverseStft, Stft
from .layers.streaming import TimeContext
from .quantization import ResidualVectorQuantizer

_QUIETEST = 1e-5
_LARGEST_LOG_MAGNITUDE = 6.0


def _spectral_features(spectrum: Tensor) -> Tensor:
    """Real and imaginary parts `(batch, 2 * bins, frames)` to log magnitude, cosine and sine of the phase."""
    real, imaginary = spectrum.chunk(2, dim=1)
    magnitude = (real.square() + imaginary.square() + _QUIETEST**2).sqrt()
    return torch.cat([magnitude.log(), real / magnitude, imaginary / magnitude], dim=1)


class StepUpsampler(nn.Module):
    """Turns every step into `factor` steps by a linear layer; looks at no other step.

    Args:
        in_channels, out_channels: channels before and after.
        factor: steps out per step in.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(in_channels, out_channels * factor)

    def forward(self, x: Tensor, time: TimeContext | None = None) -> Tensor:
        """`(batch, in_channels, steps)` to `(batch, out_channels, steps * factor)`."""
        if time is not None and time.lengths is not None:
            time.lengths = time.lengths * self.factor
        return self.linear(x.transpose(1, 2)).unflatten(-1, (self.factor, -1)).flatten(1, 2).transpose(1, 2)


class SpectrumHead(nn.Module):
    """Latents to spectra: a log magnitude and a phase, the latter as the angle of a predicted complex number."""

    def __init__(self, channels: int, window_size: int) -> None:
        super().__init__()
        self.bins = window_size // 2 + 1
        self.norm = nn.LayerNorm(channels)
        self.magnitude = nn.Linear(channels, self.bins)
        self.phase = nn.Linear(channels, 2 * self.bins)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, frames)` to `(batch, 2 * bins, frames)` float32, real parts first."""
        x = self.norm(x.transpose(1, 2))
        magnitude = self.magnitude(x).float().clamp(max=_LARGEST_LOG_MAGNITUDE).exp()
        cosine, sine = self.phase(x).float().chunk(2, dim=-1)
        gain = magnitude * torch.rsqrt(cosine.square() + sine.square() + 1e-8)
        return torch.cat([cosine * gain, sine * gain], dim=-1).transpose(1, 2)


class StftCodecModel(CodecPreTrainedModel):
    """Causal codec over short-time spectra: ConvNeXt blocks at the frame rate around a residual quantizer."""

    config: StftCodecConfig
    config_class = StftCodecConfig

    def __init__(self, config: StftCodecConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        block = {
            "kernel_size": config.kernel_size,
            "expansion": config.expansion,
            "layer_scale": config.layer_scale,
        }
        self.analysis = Stft(config.analysis_window, config.hop_length)
        self.encoder_in = Conv1d(3 * (config.analysis_window // 2 + 1), width, 1)
        self.encoder = nn.ModuleList([ConvNeXtBlock(width, **block) for _ in range(config.encoder_layers)])
        self.encoder_out = Conv1d(width, config.latent_size, 1)
        self.quantizer = ResidualVectorQuantizer(
            config.num_quantizers,
            config.codebook_size,
            config.latent_size,
            residual_gradient=config.residual_gradient,
            decay=config.codebook_decay,
            kmeans_iterations=config.kmeans_iterations,
            revive_below=config.revive_below,
        )
        self.decoder_in = Conv1d(config.latent_size, width, config.kernel_size)
        self.decoder = nn.ModuleList([ConvNeXtBlock(width, **block) for _ in range(config.decoder_layers)])
        self.upsampler = StepUpsampler(width, config.synthesis_size, config.upsampling)
        self.synthesizer = nn.ModuleList(
            [ConvNeXtBlock(config.synthesis_size, **block) for _ in range(config.synthesis_layers)]
        )
        self.head = SpectrumHead(config.synthesis_size, config.synthesis_window)
        self.synthesis = InverseStft(
            config.synthesis_window, config.hop_length // config.upsampling, config.synthesis_lookahead
        )
        self.post_init()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.encoder_in(_spectral_features(self.analysis(audio, time)).to(self.dtype), time)
        for block in self.encoder:
            x = block(x, time)
        return self.encoder_out(x, time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.decoder_in(latents, time)
        for block in self.decoder:
            x = block(x, time)
        x = self.upsampler(x, time)
        for block in self.synthesizer:
            x = block(x, time)
        return self.synthesis(self.head(x), time)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ConvNeXtBlock):
            init.constant_(module.scale, module.initial_scale)

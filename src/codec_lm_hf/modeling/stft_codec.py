"""A codec over short-time spectra; see `configuration.stft_codec`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..configuration.stft_codec import StftCodecConfig
from .codec_base import CodecPreTrainedModel
from .layers.conv import Conv1d
from .layers.convnext import ConvNeXtBlock
from .layers.stft import InverseStft, Stft
from .layers.streaming import TimeContext

_QUIETEST = 1e-5
_LARGEST_LOG_MAGNITUDE = 6.0


def _spectral_features(spectrum: Tensor) -> Tensor:
    """Real and imaginary parts `(batch, 2 * bins, frames)` to log magnitude, cosine and sine of the phase."""
    real, imaginary = spectrum.chunk(2, dim=1)
    magnitude = (real.square() + imaginary.square() + _QUIETEST**2).sqrt()
    return torch.cat([magnitude.log(), real / magnitude, imaginary / magnitude], dim=1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every step of `(batch, channels, steps)`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SpectrumHead(nn.Module):
    """Latents to spectra: log magnitude and phase of every bin (Vocos, section 3.2).

    Args:
        channels: of the latents.
        window_size: of the inverse FFT.
    """

    def __init__(self, channels: int, window_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, window_size + 2)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, channels, frames)` to `(batch, window_size + 2, frames)` float32, real parts first."""
        magnitude, phase = self.linear(self.norm(x.transpose(1, 2))).float().transpose(1, 2).chunk(2, dim=1)
        magnitude = magnitude.clamp(max=_LARGEST_LOG_MAGNITUDE).exp()
        return torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1)


class StftCodecModel(CodecPreTrainedModel):
    """Causal codec over short-time spectra: ConvNeXt blocks at the frame rate around a residual quantizer."""

    config: StftCodecConfig
    config_class = StftCodecConfig
    _code_makers = CodecPreTrainedModel._code_makers | {
        "encoder_in",
        "encoder_in_norm",
        "encoder_out_norm",
        "encoder_out",
    }

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
        self.encoder_in_norm = ChannelNorm(width)
        self.encoder = nn.ModuleList([ConvNeXtBlock(width, **block) for _ in range(config.encoder_layers)])
        self.encoder_out_norm = ChannelNorm(width)
        self.encoder_out = Conv1d(width, config.latent_size, 1)
        self.quantizer = self._residual_quantizer(config.latent_size)
        self.decoder_in = Conv1d(config.latent_size, width, config.kernel_size)
        self.decoder_in_norm = ChannelNorm(width)
        self.decoder = nn.ModuleList([ConvNeXtBlock(width, **block) for _ in range(config.decoder_layers)])
        self.head = SpectrumHead(width, config.synthesis_window)
        self.synthesis = InverseStft(config.synthesis_window, config.hop_length, config.synthesis_lookahead)
        self.post_init()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        features = _spectral_features(self.analysis(audio, time)).to(audio.dtype)
        x = self.encoder_in_norm(self.encoder_in(features, time))
        for block in self.encoder:
            x = block(x, time)
        return self.encoder_out(self.encoder_out_norm(x), time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        x = self.decoder_in_norm(self.decoder_in(latents, time))
        for block in self.decoder:
            x = block(x, time)
        return self.synthesis(self.head(x), time)

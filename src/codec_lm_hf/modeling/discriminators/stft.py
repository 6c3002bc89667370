"""EnCodec's multi-scale discriminator over complex spectra."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ...configuration.discriminators import MultiScaleStftDiscriminatorConfig
from ..layers.stft import HannWindow
from .base import DiscriminatorOutput, DiscriminatorPreTrainedModel


class StftDiscriminator(nn.Module):
    """One scale: 2-D convolutions over (time, frequency) of the complex spectrum.

    Args:
        config: of the whole discriminator.
        scale: index of this scale.

    Source: `DiscriminatorSTFT` in `encodec/msstftd.py`. As there, the first convolution has no weight norm.
    """

    def __init__(self, config: MultiScaleStftDiscriminatorConfig, scale: int) -> None:
        super().__init__()
        self.n_fft = config.n_ffts[scale]
        self.hop_length = config.hop_lengths[scale]
        self.win_length = config.win_lengths[scale]
        self.normalized = config.normalized
        self.negative_slope = config.negative_slope
        self.hann = HannWindow(self.win_length)
        time, frequency = config.kernel_size
        channels = 2 * config.audio_channels
        convs = [
            nn.Conv2d(channels, config.filters, (time, frequency), padding=((time - 1) // 2, (frequency - 1) // 2))
        ]
        for dilation in config.dilations:
            convs.append(
                nn.Conv2d(
                    config.filters,
                    config.filters,
                    (time, frequency),
                    stride=tuple(config.stride),
                    dilation=(dilation, 1),
                    padding=((time - 1) * dilation // 2, (frequency - 1) // 2),
                )
            )
        square = {"kernel_size": (time, time), "padding": ((time - 1) // 2, (time - 1) // 2)}
        convs.append(nn.Conv2d(config.filters, config.filters, **square))
        conv_post = nn.Conv2d(config.filters, 1, **square)
        if config.norm_type == "weight_norm":
            for conv in [*convs[1:], conv_post]:
                parametrizations.weight_norm(conv)
        self.convs = nn.ModuleList(convs)
        self.conv_post = conv_post

    def forward(self, audio: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = self._spectrum(audio).to(self.convs[0].weight.dtype)
        # Convolutions with few channels take about half the time in this layout.
        x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), self.negative_slope)
            maps.append(x)
        return self.conv_post(x), tuple(maps)

    def _spectrum(self, audio: Tensor) -> Tensor:
        """`(batch, channels, samples)` to `(batch, 2 * channels, frames, bins)`: real parts, then imaginary."""
        if audio.shape[-1] < self.n_fft:
            raise ValueError(
                f"this scale needs at least {self.n_fft} samples, got {audio.shape[-1]}: use longer crops."
            )
        window = self.hann.window.float()
        spectrum = torch.stft(
            audio.flatten(0, 1).float(),
            self.n_fft,
            self.hop_length,
            self.win_length,
            window,
            center=False,
            return_complex=True,
        ).unflatten(0, audio.shape[:2])
        if self.normalized:
            spectrum = spectrum / window.square().sum().sqrt()
        return torch.cat([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)


class MultiScaleStftDiscriminator(DiscriminatorPreTrainedModel):
    """Several `StftDiscriminator`s, one per window size (EnCodec, section 3.4)."""

    config: MultiScaleStftDiscriminatorConfig
    config_class = MultiScaleStftDiscriminatorConfig

    def __init__(self, config: MultiScaleStftDiscriminatorConfig) -> None:
        super().__init__(config)
        self.discriminators = nn.ModuleList([StftDiscriminator(config, scale) for scale in range(len(config.n_ffts))])
        self.post_init()

    def forward(self, audio_values: Tensor) -> DiscriminatorOutput:
        """Judge `audio_values` `(batch, channels, samples)`."""
        logits, maps = zip(*[discriminator(audio_values) for discriminator in self.discriminators], strict=True)
        return DiscriminatorOutput(logits=logits, feature_maps=maps)

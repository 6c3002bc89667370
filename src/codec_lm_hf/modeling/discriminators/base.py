"""The model: several discriminators, each of which looks at audio in its own way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ...configuration.discriminators import CodecDiscriminatorConfig
from ...hub import HubModelMixin
from ..layers.conv import has_weight_norm, reset_weight_norm
from ..layers.stft import HannWindow
from .parts import SpectralNorm, has_spectral_norm
from .soundstream import ComplexConv2d, ComplexStftDiscriminator, ModRelu, WaveDiscriminator
from .spectral import BandDiscriminator, MagnitudeDiscriminator, StftDiscriminator
from .waveform import PeriodDiscriminator, ScaleDiscriminator

_KINDS: dict[str, type[nn.Module]] = {
    "period": PeriodDiscriminator,
    "scale": ScaleDiscriminator,
    "stft": StftDiscriminator,
    "bands": BandDiscriminator,
    "magnitude": MagnitudeDiscriminator,
    "wave": WaveDiscriminator,
    "complex_stft": ComplexStftDiscriminator,
}


@dataclass
class DiscriminatorOutput(ModelOutput):
    """Output of a discriminator.

    Attributes:
        logits: one tensor per part, of the part's own shape; high means real.
        feature_maps: the activations of each part's layers, without the logits.
    """

    logits: tuple[Tensor, ...] | None = None
    feature_maps: tuple[tuple[Tensor, ...], ...] | None = None


class CodecDiscriminator(HubModelMixin, PreTrainedModel):
    """What tells decoded audio from recordings, for adversarial training: the parts that `config.parts` lists."""

    config: CodecDiscriminatorConfig
    config_class = CodecDiscriminatorConfig
    base_model_prefix = "discriminator"
    main_input_name = "audio_values"

    def __init__(self, config: CodecDiscriminatorConfig) -> None:
        super().__init__(config)
        self.discriminators = nn.ModuleList(
            [
                _KINDS[part["kind"]](audio_channels=config.audio_channels, **config.options(index))
                for index, part in enumerate(config.parts)
            ]
        )
        self.post_init()

    def forward(self, audio_values: Tensor) -> DiscriminatorOutput:
        """Judge `audio_values` `(batch, channels, samples)`.

        Raises:
            ValueError: fewer samples than a part needs.
        """
        if self.config.level_input:
            audio_values = audio_values - audio_values.mean(-1, keepdim=True)
            audio_values = 0.8 * audio_values / (audio_values.abs().amax(-1, keepdim=True) + 1e-9)
        logits, maps = zip(*[discriminator(audio_values) for discriminator in self.discriminators], strict=True)
        return DiscriminatorOutput(logits=logits, feature_maps=maps)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if has_weight_norm(module):
            reset_weight_norm(module)
        if has_spectral_norm(module):
            init.kaiming_uniform_(module.parametrizations.weight.original, a=5**0.5)
        if isinstance(module, (ComplexConv2d, HannWindow, ModRelu, SpectralNorm)):
            module.reset()

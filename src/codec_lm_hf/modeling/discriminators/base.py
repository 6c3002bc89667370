"""What every discriminator returns, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ...hub import HubModelMixin
from ..layers.conv import has_weight_norm
from ..layers.stft import HannWindow


@dataclass
class DiscriminatorOutput(ModelOutput):
    """Output of a discriminator.

    Attributes:
        logits: one tensor per part, of the part's own shape; high means real.
        feature_maps: the activations of each part's layers.
    """

    logits: tuple[Tensor, ...] | None = None
    feature_maps: tuple[tuple[Tensor, ...], ...] | None = None


class DiscriminatorPreTrainedModel(HubModelMixin, PreTrainedModel):
    """Base of every discriminator: `forward(audio_values (batch, channels, samples)) -> DiscriminatorOutput`."""

    base_model_prefix = "discriminator"
    main_input_name = "audio_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if has_weight_norm(module):
            pair = module.parametrizations.weight
            init.kaiming_uniform_(pair.original1, a=5**0.5)
            init.copy_(pair.original0, torch.norm_except_dim(pair.original1, 2, 0))
        if isinstance(module, HannWindow):
            module.reset()

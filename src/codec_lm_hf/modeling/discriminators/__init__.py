from .base import DiscriminatorOutput, DiscriminatorPreTrainedModel
from .stft import MultiScaleStftDiscriminator

__all__ = ["DiscriminatorOutput", "DiscriminatorPreTrainedModel", "MultiScaleStftDiscriminator"]

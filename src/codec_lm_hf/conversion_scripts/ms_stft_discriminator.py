"""The multi-scale STFT discriminator of EnCodec's code. Its trained weights were never released."""

from __future__ import annotations

from ..configuration.discriminators import MultiScaleStftDiscriminatorConfig
from ..modeling.discriminators import MultiScaleStftDiscriminator
from .engine import Converter

_CONV = r"(discriminators\.\d+\.(?:convs\.\d+|conv_post))\.conv"

RULES = [
    (_CONV + r"\.weight_g", r"\1.parametrizations.weight.original0"),
    (_CONV + r"\.weight_v", r"\1.parametrizations.weight.original1"),
    (_CONV + r"\.(weight|bias)", r"\1.\2"),
    # The Hann window, which we compute.
    (r"discriminators\.\d+\.spec_transform\.window", None),
]


def config_from_original(original: dict) -> MultiScaleStftDiscriminatorConfig:
    """The constructor arguments of the original to our configuration."""
    fields = {name: value for name, value in original.items() if name not in ("in_channels", "out_channels", "norm")}
    return MultiScaleStftDiscriminatorConfig(
        audio_channels=original.get("in_channels", 1), norm_type=original.get("norm", "weight_norm"), **fields
    )


CONVERTER = Converter(MultiScaleStftDiscriminatorConfig, MultiScaleStftDiscriminator, RULES, config_from_original)

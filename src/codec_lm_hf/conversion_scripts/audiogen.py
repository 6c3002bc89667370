"""AudioGen's `state_dict.bin`: MusicGen's layout."""

from __future__ import annotations

from ..configuration.audiogen import AudioGenLMConfig
from ..modeling.audiogen import AudioGenLMForConditionalGeneration
from .engine import Converter
from .musicgen import SHARED, fields_from_original


def config_from_original(original: dict) -> AudioGenLMConfig:
    """As for MusicGen; AudioGen's windows advance by a fifth of their length."""
    fields = fields_from_original(original)
    return AudioGenLMConfig(**fields | {"extend_stride": 0.2 * fields["max_duration"]})


CONVERTER = Converter(
    AudioGenLMConfig, AudioGenLMForConditionalGeneration, config_from_original=config_from_original, **SHARED
)

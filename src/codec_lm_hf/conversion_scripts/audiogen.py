"""AudioGen's `state_dict.bin`: MusicGen's layout."""

from __future__ import annotations

from ..configuration.audiogen import AudioGenLMConfig
from ..modeling.audiogen import AudioGenLMForConditionalGeneration
from . import audiocraft
from .engine import Converter
from .musicgen import RULES, fields_from_original


def config_from_original(original: dict) -> AudioGenLMConfig:
    fields = fields_from_original(original)
    return AudioGenLMConfig(**fields | {"extend_stride": 0.2 * fields["max_duration"]})


CONVERTER = Converter(
    AudioGenLMConfig,
    AudioGenLMForConditionalGeneration,
    RULES,
    config_from_original,
    read=audiocraft.read,
    read_config=audiocraft.read_config,
)

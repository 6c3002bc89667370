"""AudioGen: sounds of a text, by MusicGen's architecture."""

from __future__ import annotations

from ..configuration.audiogen import AudioGenLMConfig
from .musicgen import MusicGenLMForConditionalGeneration


class AudioGenLMForConditionalGeneration(MusicGenLMForConditionalGeneration):
    """AudioGen (Kreuk et al., 2022) as it was released: MusicGen's model, trained on sounds."""

    config: AudioGenLMConfig
    config_class = AudioGenLMConfig

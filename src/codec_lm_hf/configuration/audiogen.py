"""AudioGen: sounds of a text. What was released under this name has MusicGen's architecture."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .musicgen import MusicGenLMConfig


@strict
class AudioGenLMConfig(MusicGenLMConfig):
    """Configuration of `AudioGenLMForConditionalGeneration`. The defaults are `facebook/audiogen-medium`.

    The fields are those of `MusicGenLMConfig`.
    """

    model_type = "audiogen_codec_lm"

    presets: ClassVar[dict[str, dict]] = {"audiogen-medium": {}}

    sampling_rate: int = 16000
    hidden_size: int = 1536
    num_hidden_layers: int = 48
    num_attention_heads: int = 24
    text_encoder_name: str = "t5-large"
    text_hidden_size: int = 1024
    max_duration: int | float = 10
    extend_stride: int | float = 2
    condition_dropout: int | float = 0.1

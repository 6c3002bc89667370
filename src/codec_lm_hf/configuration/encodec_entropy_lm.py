"""The language model that EnCodec's entropy coder works with."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .presets import PresetConfig


@strict
class EncodecEntropyLMConfig(PresetConfig):
    """Configuration of `EncodecEntropyLMModel`. The defaults are the model of `encodec_24khz`.

    Args:
        num_codebooks: codes per frame, at most; fewer can be given.
        codebook_size: entries per codebook.
        hidden_size: even, and a multiple of `num_attention_heads`.
        num_hidden_layers, num_attention_heads, intermediate_size: of the transformer.
        hidden_act: activation of the feed-forward part, by its name in transformers.
        norm_in: normalise the embeddings before the positions are added.
        norm_first: normalise before attention and feed-forward part instead of after them.
        dropout: in training, on attention weights and after each part of a layer.
        past_context: how many frames back a frame sees.
        max_period: of the sinusoidal positions, in frames.
        initializer_range: standard deviation of fresh weights.
    """

    model_type = "encodec_entropy_lm"

    presets: ClassVar[dict[str, dict]] = {
        "encodec_lm_24khz": {},
        "encodec_lm_48khz": {"num_codebooks": 16, "past_context": 525},
    }

    num_codebooks: int = 32
    codebook_size: int = 1024
    hidden_size: int = 200
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    intermediate_size: int = 800
    hidden_act: str = "gelu"
    norm_in: bool = True
    norm_first: bool = False
    dropout: float = 0.0
    past_context: int = 262
    max_period: int | float = 10_000
    initializer_range: float = 0.02

    def validate_architecture(self):
        for name in ("num_codebooks", "codebook_size", "num_hidden_layers", "past_context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})."
            )
        if self.hidden_size < 4 or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size must be even and at least 4, for the sinusoidal positions; got {self.hidden_size}."
            )

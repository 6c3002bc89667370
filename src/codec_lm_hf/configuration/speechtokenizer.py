"""SpeechTokenizer (Zhang et al., 2023, "SpeechTokenizer: Unified Speech Tokenizer for Speech Language Models")."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .codec_base import ResidualCodecConfig

ACTIVATIONS = ("elu", "snake")


@strict
class SpeechTokenizerConfig(ResidualCodecConfig):
    """Configuration of `SpeechTokenizerModel`. The defaults are the published `speechtokenizer_hubert_avg`.

    Args:
        sampling_rate: Hz.
        audio_channels: 1.
        hidden_size: channels of the latents.
        num_filters, num_residual_layers, upsampling_ratios, residual_kernel_size, dilation_growth_rate,
            num_lstm_layers: see `modeling.layers.seanet`.
        bidirectional_lstm: the encoder's LSTM reads each signal from both ends, so the codec cannot be streamed.
        activation: `"elu"` or `"snake"`.
        semantic_hidden_size: channels of the speech model that the first quantizer was taught by.
        num_quantizers: codebooks.
        codebook_size: entries per codebook.
        codebook_decay, kmeans_iterations, revive_below, residual_gradient: training of the codebooks, see
            `modeling.quantization`; the defaults are the original's behaviour.

    Source of the defaults: `config/spt_base_cfg.json` of the original project.
    """

    model_type = "speechtokenizer"

    presets: ClassVar[dict[str, dict]] = {
        "speechtokenizer_hubert_avg": {},
        "speechtokenizer_snake": {"activation": "snake"},
    }

    sampling_rate: int = 16_000
    audio_channels: int = 1
    hidden_size: int = 1024
    num_filters: int = 64
    num_residual_layers: int = 1
    upsampling_ratios: list[int] | tuple[int, ...] = (8, 5, 4, 2)
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    num_lstm_layers: int = 2
    bidirectional_lstm: bool = True
    activation: str = "elu"
    semantic_hidden_size: int = 768

    def validate_architecture(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got {self.activation!r}.")
        if self.bidirectional_lstm and self.num_lstm_layers == 0:
            raise ValueError("bidirectional_lstm needs LSTM layers; set num_lstm_layers, or bidirectional_lstm=False.")

    @property
    def hop_length(self) -> int:
        return math.prod(self.upsampling_ratios)

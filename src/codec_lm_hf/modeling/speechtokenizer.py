"""SpeechTokenizer: EnCodec's architecture with a first quantizer that learns content from a speech model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration.speechtokenizer import SpeechTokenizerConfig
from .codec_base import CodecDecoderOutput, CodecEncoderOutput
from .codec_semantic import SemanticCodecModel
from .layers.seanet import SeanetDecoder, SeanetEncoder
from .layers.streaming import TimeContext


class SpeechTokenizerModel(SemanticCodecModel):
    """SpeechTokenizer (Zhang et al., 2023).

    The first codebook holds what is said, the others what is missing for how it sounds. `first_quantizer` picks a span
    of codebooks that does not begin with the first: `decode(codes[:, 1:], first_quantizer=1)` is the sound without the
    content.
    """

    config: SpeechTokenizerConfig
    config_class = SpeechTokenizerConfig
    choice_names = ("first",)

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__(config)
        # What the configuration does not say, the original leaves at its SEANet's defaults.
        seanet = {
            "channels": config.audio_channels,
            "dimension": config.hidden_size,
            "num_filters": config.num_filters,
            "ratios": config.upsampling_ratios,
            "num_residual_layers": config.num_residual_layers,
            "kernel_size": 7,
            "last_kernel_size": 7,
            "residual_kernel_size": config.residual_kernel_size,
            "dilation_growth_rate": config.dilation_growth_rate,
            "compress": 2,
            "use_conv_shortcut": True,
            "num_lstm_layers": config.num_lstm_layers,
            "activation": config.activation,
            "conv_options": {
                "causal": False,
                "pad_mode": "reflect",
                "norm_type": "weight_norm",
                "fused": config.fused,
            },
        }
        self.encoder = SeanetEncoder(**seanet, bidirectional_lstm=config.bidirectional_lstm)
        self.decoder = SeanetDecoder(**seanet, trim_right_ratio=1.0)
        self.quantizer = self._residual_quantizer(config.hidden_size)
        self.semantic_projection = self._semantic_projection(config.hidden_size, config.semantic_hidden_size)
        self.post_init()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.encoder(audio, time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.decoder(latents, time)

    # --- spans of codebooks ----------------------------------------------------------------------------------------

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
        first_quantizer: int = 0,
    ) -> CodecEncoderOutput:
        """Audio to codes.

        Args:
            input_values, padding_mask, bandwidth, return_dict: as in `CodecPreTrainedModel.encode`.
            num_quantizers: codes per frame, counted from `first_quantizer` on; all that are left by default. (The
                original's `n_q` is the end of the span instead: `first_quantizer + num_quantizers`.)
            first_quantizer: the quantizer to begin with, the original's `st`. Above 0, it quantizes the encoder's full
                output, as in the original, not what the quantizers before it would have left: the codes are not those
                that encoding with all quantizers gives in these places.

        Raises:
            ValueError: as in `CodecPreTrainedModel.encode`; a span that the model does not have.
        """
        count = self._count_from(first_quantizer, num_quantizers, bandwidth)
        return super().encode(input_values, padding_mask, count, None, return_dict, first=first_quantizer)

    def decode(
        self,
        audio_codes: Tensor,
        audio_scales: Tensor | None = None,
        padding_mask: Tensor | None = None,
        codes_mask: Tensor | None = None,
        return_dict: bool | None = None,
        first_quantizer: int = 0,
    ) -> CodecDecoderOutput:
        """Codes to audio.

        Args:
            audio_codes, audio_scales, padding_mask, codes_mask, return_dict: as in `CodecPreTrainedModel.decode`.
            first_quantizer: the quantizer that the first row of codes belongs to, the original's `st`.

        Raises:
            ValueError: as in `CodecPreTrainedModel.decode`; a span that the model does not have.
        """
        if first_quantizer and audio_codes.ndim == 3:
            self._count_from(first_quantizer, audio_codes.shape[1], None)
        return super().decode(audio_codes, audio_scales, padding_mask, codes_mask, return_dict, first=first_quantizer)

    def _count_from(self, first: int, num_quantizers: int | None, bandwidth: float | None) -> int:
        """Quantizers of a span, checked."""
        available = self.config.num_codebooks
        if not 0 <= first < available:
            raise ValueError(f"first_quantizer={first}, but this model has quantizers 0 to {available - 1}.")
        if num_quantizers is None and bandwidth is None:
            return available - first
        count = self._count(num_quantizers, bandwidth)
        if first + count > available:
            raise ValueError(
                f"{count} quantizers from first_quantizer={first} on end at {first + count}, but this model has "
                f"{available}; use at most {available - first}."
            )
        return count

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            # As torch does, and so the original. With the zeros of transformers a fresh decoder is all but silent, and
            # its snakes, whose gradient is the square of what they get, do not learn.
            bound = module.weight[0].numel() ** -0.5
            init.uniform_(module.bias, -bound, bound)

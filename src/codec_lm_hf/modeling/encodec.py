"""EnCodec: SEANet and residual vector quantization; at 48 kHz, in normalised segments with overlap."""

from __future__ import annotations

from torch import Tensor

from ..configuration.encodec import EncodecCodecConfig
from .codec_base import CodecPreTrainedModel
from .layers.seanet import SeanetDecoder, SeanetEncoder, seanet_options
from .layers.streaming import TimeContext


class EncodecCodecModel(CodecPreTrainedModel):
    """EnCodec (Défossez et al., 2022)."""

    config: EncodecCodecConfig
    config_class = EncodecCodecConfig

    def __init__(self, config: EncodecCodecConfig) -> None:
        super().__init__(config)
        seanet = {"channels": config.audio_channels, **seanet_options(config)}
        self.encoder = SeanetEncoder(**seanet)
        self.decoder = SeanetDecoder(**seanet, trim_right_ratio=config.trim_right_ratio)
        self.quantizer = self._residual_quantizer(config.codebook_dim)
        self.post_init()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.encoder(audio, time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.decoder(latents, time)

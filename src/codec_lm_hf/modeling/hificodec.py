"""HiFi-Codec: HiFi-GAN's generator and its mirror image around group-residual quantization."""

from __future__ import annotations

from torch import Tensor

from ..configuration.hificodec import HifiCodecConfig
from .codec_base import CodecPreTrainedModel
from .layers.conv import windows_through
from .layers.hifigan import SLOPE, HifiGanEncoder, HifiGanGenerator
from .layers.streaming import TimeContext, at_least, filled_up
from .quantization import GroupResidualQuantizer


class HifiCodecModel(CodecPreTrainedModel):
    """HiFi-Codec (Yang et al., 2023).

    A last incomplete frame gets no code, as in the original; audio shorter than one frame, for which the
    original has none, is filled up with zeros.
    """

    config: HifiCodecConfig
    config_class = HifiCodecConfig

    def __init__(self, config: HifiCodecConfig) -> None:
        super().__init__(config)
        shared = {
            "ratios": config.upsampling_ratios,
            "kernel_sizes": config.residual_kernel_sizes,
            "dilations": config.residual_dilations,
            "paired": config.paired_convolutions,
        }
        options = {"causal": False, "norm_type": "weight_norm", "fused": config.fused}
        self.encoder = HifiGanEncoder(
            config.hidden_size,
            config.encoder_channels,
            down_kernel_sizes=config.upsampling_kernel_sizes,
            norm_channels=config.encoder_norm_channels,
            fused=config.fused,
            **shared,
        )
        self.quantizer = GroupResidualQuantizer(
            config.num_code_groups, config.num_residual_layers, config.codebook_size, config.hidden_size
        )
        self.decoder = HifiGanGenerator(
            config.hidden_size,
            config.decoder_channels,
            up_kernel_sizes=config.upsampling_kernel_sizes,
            final_slope=SLOPE,
            conv_options=options,
            up_options=options,
            **shared,
        )
        self.post_init()

    def _frames_of(self, samples: Tensor | int) -> Tensor | int:
        steps = at_least(self.config.hop_length, samples)
        return windows_through([stage.down for stage in self.encoder.stages], steps)

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.encoder(filled_up(audio, self.config.hop_length, time), time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.decoder(latents, time)

"""SoundStream: the paper's model. Its weights were never released; Lyra's relative of it is `soundstream_lyra`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration.soundstream import SoundStreamConfig
from .codec_base import CodecPreTrainedModel
from .layers.film import SwitchedFiLM
from .layers.seanet import SeanetDecoder, SeanetEncoder
from .layers.streaming import TimeContext


class SoundStreamModel(CodecPreTrainedModel):
    """SoundStream (Zeghidour et al., 2021).

    With `config.denoising`, the attribute `denoise` switches between coding the input as it is (`False`) and coding it
    without its background noise (`True`); in training it may be a bool tensor `(batch,)`.
    """

    config: SoundStreamConfig
    config_class = SoundStreamConfig

    def __init__(self, config: SoundStreamConfig) -> None:
        super().__init__(config)
        seanet = {
            "channels": config.audio_channels,
            "dimension": config.hidden_size,
            "num_filters": config.num_filters,
            "ratios": list(reversed(config.strides)),
            "num_residual_layers": config.num_residual_layers,
            "residual_kernel_size": config.residual_kernel_size,
            "dilation_growth_rate": config.dilation_growth_rate,
            "compress": 1,
            "use_conv_shortcut": False,
            "num_lstm_layers": 0,
            "conv_options": {
                "causal": True,
                "pad_mode": "constant",
                "norm_type": "weight_norm",
                "fused": config.fused,
            },
        }
        self.encoder = SeanetEncoder(
            **seanet, kernel_size=config.kernel_size, last_kernel_size=config.last_kernel_size
        )
        # Mirrored: the kernel beside the latents is the decoder's first, the one beside the waveform its last.
        self.decoder = SeanetDecoder(
            **seanet, kernel_size=config.kernel_size, last_kernel_size=config.kernel_size, trim_right_ratio=1.0
        )
        self.quantizer = self._residual_quantizer(config.hidden_size)
        self.film = SwitchedFiLM(config.hidden_size) if config.denoising != "none" else None
        if config.denoising == "encoder":
            self._code_makers = self._code_makers | {"film"}
        self.denoise: bool | Tensor = False
        self.post_init()

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        latents = self.encoder(audio, time)
        return self.film(latents, self.denoise) if self.config.denoising == "encoder" else latents

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        if self.config.denoising == "decoder":
            latents = self.film(latents, self.denoise)
        return self.decoder(latents, time)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SwitchedFiLM):
            init.zeros_(module.modulation.weight)
            identity = torch.cat(
                [torch.ones(module.modulation.out_features // 2), torch.zeros(module.modulation.out_features // 2)]
            )
            init.copy_(module.modulation.bias, identity.to(module.modulation.bias))

"""DAC: snake activations and factorised residual codes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..configuration.dac import DacCodecConfig
from .codec_base import CodecPreTrainedModel
from .layers.dac import DacDecoder, DacEncoder, WholeFrames
from .layers.streaming import TimeContext, zero_padding
from .quantization import FactorizedResidualQuantizer

# Names of weights in transformers' own DAC checkpoints -> ours. None of them is found in ours.
NATIVE_KEYS = {
    r"^(encoder|decoder)\.conv1\.": r"\1.conv_in.conv.",
    r"^(encoder|decoder)\.snake1\.": r"\1.snake.",
    r"^(encoder|decoder)\.conv2\.": r"\1.conv_out.conv.",
    r"\.block\.(\d+)\.snake1\.": r".blocks.\1.snake.",
    r"\.block\.(\d+)\.conv(?:_t)?1\.": r".blocks.\1.conv.conv.",
    r"\.block\.(\d+)\.res_unit1\.": r".blocks.\1.units.0.",
    r"\.block\.(\d+)\.res_unit2\.": r".blocks.\1.units.1.",
    r"\.block\.(\d+)\.res_unit3\.": r".blocks.\1.units.2.",
    r"^quantizer\.quantizers\.": "quantizer.layers.",
    r"\.codebook\.weight": ".codebook.embed",
    r"\.(conv1|conv2|in_proj|out_proj)\.(?=weight|bias)": r".\1.conv.",
}


class DacCodecModel(CodecPreTrainedModel):
    """DAC (Kumar et al., 2023).

    `quantizer.from_codes`, `quantizer.from_latents` and `quantizer.project` give the representations between codes and
    latents. Where a decoder stride is odd, decoded audio is a few samples shorter than `frames * hop_length`; given
    the `padding_mask`, `decode` fills them with zeros where the encoded audio was that long.
    """

    config: DacCodecConfig
    config_class = DacCodecConfig
    _keep_in_fp32_modules_strict = {"quantizer"}

    def __init__(self, config: DacCodecConfig) -> None:
        super().__init__(config)
        options = {"causal": False, "norm_type": "weight_norm", "fused": config.fused}
        self.whole_frames = WholeFrames(config.hop_length)
        self.encoder = DacEncoder(config.hidden_size, config.encoder_hidden_size, config.downsampling_ratios, options)
        self.quantizer = FactorizedResidualQuantizer(
            config.n_codebooks, config.codebook_size, config.hidden_size, config.codebook_dim, config.fused
        )
        self.decoder = DacDecoder(config.hidden_size, config.decoder_hidden_size, config.upsampling_ratios, options)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; also reads transformers' own DAC checkpoints."""
        kwargs["key_mapping"] = {**NATIVE_KEYS, **(kwargs.get("key_mapping") or {})}
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def _encode_latents(self, audio: Tensor, time: TimeContext | None = None) -> Tensor:
        return self.encoder(self.whole_frames(audio, time), time)

    def _decode_latents(self, latents: Tensor, time: TimeContext | None = None) -> Tensor:
        return zero_padding(self.decoder(latents, time), time)

    def _drop_quantizers(self, count: int, batch_size: int, dropout: float) -> int | Tensor:
        """As in the original, a fixed share of the rows, the first ones, draw how many codebooks they use."""
        if dropout == 0.0:
            return count
        counts = torch.full((batch_size,), count, device=self.device)
        drawn = int(batch_size * dropout)
        counts[:drawn] = torch.randint(1, count + 1, (drawn,), device=self.device)
        return counts

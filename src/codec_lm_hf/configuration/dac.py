"""DAC (Kumar et al., 2023, "High-Fidelity Audio Compression with Improved RVQGAN")."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..registry import family
from .codec_base import CodecConfig

# Of transformers' own `DacConfig`: what follows from other fields here, or belongs to training.
_NATIVE_ONLY = ("model_type", "architectures", "hop_length", "commitment_loss_weight", "codebook_loss_weight")


@strict
class DacCodecConfig(CodecConfig):
    """Configuration of `DacCodecModel`. The defaults are the 44.1 kHz model of 8 kbps.

    Fields that transformers' own `DacConfig` has bear the same names, so its checkpoints load as they are.

    Args:
        sampling_rate: Hz.
        audio_channels: 1. `.dac` files hold more channels as so many mono signals.
        encoder_hidden_size: channels after the encoder's first convolution; doubled by every block.
        downsampling_ratios: stride of each encoder block.
        hidden_size: channels of the latents; what the encoder's last block has, if not given.
        decoder_hidden_size: channels after the decoder's first convolution; halved by every block, rounded down.
        upsampling_ratios: stride of each decoder block; the encoder's backwards, if not given.
        n_codebooks: codes per frame.
        codebook_size: entries per codebook.
        codebook_dim: length of an entry, for all codebooks or one for each.
        quantizer_dropout: share of the rows of a training batch, the first ones, that use a random number of
            codebooks.
    """

    model_type = "dac_codec"
    native_types: ClassVar[tuple[str, ...]] = family("dac").native

    presets: ClassVar[dict[str, dict]] = {
        "dac_16khz": {"sampling_rate": 16_000, "downsampling_ratios": (2, 4, 5, 8), "n_codebooks": 12},
        "dac_24khz": {"sampling_rate": 24_000, "downsampling_ratios": (2, 4, 5, 8), "n_codebooks": 32},
        "dac_44khz": {},
        "dac_44khz_16kbps": {"hidden_size": 128, "n_codebooks": 18},
    }

    sampling_rate: int = 44_100
    audio_channels: int = 1
    encoder_hidden_size: int = 64
    downsampling_ratios: list[int] | tuple[int, ...] = (2, 4, 8, 8)
    hidden_size: int | None = None
    decoder_hidden_size: int = 1536
    upsampling_ratios: list[int] | tuple[int, ...] | None = None
    n_codebooks: int = 9
    codebook_size: int = 1024
    codebook_dim: int | list[int] | tuple[int, ...] = 8
    quantizer_dropout: float = 0.5

    def __post_init__(self, **kwargs):
        if self.hidden_size is None:
            self.hidden_size = self.encoder_hidden_size * 2 ** len(self.downsampling_ratios)
        if self.upsampling_ratios is None:
            self.upsampling_ratios = self.downsampling_ratios[::-1]
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.audio_channels != 1:
            raise ValueError(f"DAC is mono, got audio_channels={self.audio_channels}; code each channel by itself.")
        if math.prod(self.upsampling_ratios) != self.hop_length:
            raise ValueError(
                f"upsampling_ratios {self.upsampling_ratios} must multiply to what downsampling_ratios "
                f"{self.downsampling_ratios} do, {self.hop_length}: the samples of a frame."
            )
        if self.decoder_hidden_size < 2 ** len(self.upsampling_ratios):
            raise ValueError(
                f"decoder_hidden_size ({self.decoder_hidden_size}) is halved by each of {len(self.upsampling_ratios)} "
                "blocks until no channel is left; choose that power of two or more."
            )
        if not isinstance(self.codebook_dim, int) and len(self.codebook_dim) != self.n_codebooks:
            raise ValueError(
                f"codebook_dim {self.codebook_dim} must be one number, or one for each of {self.n_codebooks} "
                "codebooks."
            )

    @staticmethod
    def _from_native(config_dict: dict) -> dict:
        fields = {name: value for name, value in config_dict.items() if name not in _NATIVE_ONLY}
        # Their weights are plain.
        return fields | {"fused": True, "quantizer_dropout": float(fields.get("quantizer_dropout", 0))}

    @property
    def hop_length(self) -> int:
        return math.prod(self.downsampling_ratios)

    @property
    def num_codebooks(self) -> int:
        return self.n_codebooks

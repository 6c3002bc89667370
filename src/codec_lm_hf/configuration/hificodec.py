"""HiFi-Codec (Yang et al., 2023, "HiFi-Codec: Group-residual Vector quantization for High Fidelity Audio Codec")."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .codec_base import CodecConfig


@strict
class HifiCodecConfig(CodecConfig):
    """Configuration of `HifiCodecModel`. The defaults are `HiFi-Codec-16k-320d`.

    Args:
        sampling_rate: Hz.
        hidden_size: channels of the latents; 512 in the original's code.
        encoder_channels: after the encoder's first convolution, doubled at every stage; 32 in the original's code.
        encoder_norm_channels: channels of a group of the encoder's norms over time, or a few more where these do not
            divide a stage's channels; 16 in the original's code.
        decoder_channels: after the decoder's first convolution, halved at every stage.
        upsampling_ratios, upsampling_kernel_sizes: of the decoder's stages; the encoder has them in reverse.
        residual_kernel_sizes, residual_dilations: of the residual blocks of each stage.
        paired_convolutions: a second, undilated convolution in every residual step: HiFi-GAN's "ResBlock1".
        num_code_groups: parts into which the channels of the latents are divided, each quantised by itself.
        num_residual_layers: codebooks of each part, each over what the ones before it left; 2 in the original's code.
        codebook_size: entries per codebook.
    """

    model_type = "hificodec"

    presets: ClassVar[dict[str, dict]] = {
        "HiFi-Codec-16k-320d": {},
        "HiFi-Codec-16k-320d-large-universal": {},
        "HiFi-Codec-24k-320d": {"sampling_rate": 24_000},
        "HiFi-Codec-24k-240d": {
            "sampling_rate": 24_000,
            "upsampling_ratios": (8, 5, 3, 2),
            "upsampling_kernel_sizes": (16, 11, 7, 4),
        },
    }

    sampling_rate: int = 16_000
    audio_channels: int = 1
    hidden_size: int = 512
    encoder_channels: int = 32
    encoder_norm_channels: int = 16
    decoder_channels: int = 512
    upsampling_ratios: list[int] | tuple[int, ...] = (8, 5, 4, 2)
    upsampling_kernel_sizes: list[int] | tuple[int, ...] = (16, 11, 8, 4)
    residual_kernel_sizes: list[int] | tuple[int, ...] = (3, 7, 11)
    residual_dilations: list[list[int]] | tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    paired_convolutions: bool = True
    num_code_groups: int = 2
    num_residual_layers: int = 2
    codebook_size: int = 1024

    def validate_architecture(self):
        if self.audio_channels != 1:
            raise ValueError(f"HiFi-Codec is mono, got audio_channels={self.audio_channels}.")
        if len(self.upsampling_ratios) != len(self.upsampling_kernel_sizes):
            raise ValueError(
                f"upsampling_ratios {self.upsampling_ratios} and upsampling_kernel_sizes "
                f"{self.upsampling_kernel_sizes} need one entry per stage each."
            )
        if len(self.residual_kernel_sizes) != len(self.residual_dilations):
            raise ValueError(
                f"residual_kernel_sizes {self.residual_kernel_sizes} and residual_dilations {self.residual_dilations} "
                "need one entry per block each."
            )
        if self.hidden_size % self.num_code_groups:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_code_groups.")
        for stage in range(1, len(self.upsampling_ratios) + 1):
            channels = self.encoder_channels * 2**stage
            groups = channels // self.encoder_norm_channels
            if groups == 0 or channels % groups:
                raise ValueError(
                    f"encoder_channels {self.encoder_channels} make {channels} channels at a stage, which cannot be "
                    f"divided into groups of about encoder_norm_channels ({self.encoder_norm_channels})."
                )

    @property
    def hop_length(self) -> int:
        return math.prod(self.upsampling_ratios)

    @property
    def num_codebooks(self) -> int:
        return self.num_code_groups * self.num_residual_layers

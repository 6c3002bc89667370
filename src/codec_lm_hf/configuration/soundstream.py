"""SoundStream (Zeghidour et al., 2021, "SoundStream: An End-to-End Neural Audio Codec")."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .codec_base import ResidualCodecConfig

DENOISING = ("none", "encoder", "decoder")


@strict
class SoundStreamConfig(ResidualCodecConfig):
    """Configuration of `SoundStreamModel`. The defaults are the paper's 24 kHz model at up to 18 kbps.

    Args:
        sampling_rate: Hz (section IV-A).
        audio_channels: 1.
        num_filters: C of the paper, channels after the first convolution (C = 32, section V-C).
        strides: of the encoder blocks, in order (section III-A); the decoder mirrors them.
        hidden_size: D of the paper, channels of the latents.
        kernel_size: of the first and last convolutions of the encoder and decoder.
        last_kernel_size: of the convolution to and from the latents' side.
        residual_kernel_size, num_residual_layers, dilation_growth_rate: 3 residual units per block with kernel 7 and
            dilations 1, 3, 9.
        num_quantizers: codebooks; 24 x 10 bits x 75 Hz = 18 kbps.
        codebook_size: entries per codebook.
        quantizer_dropout: probability per row of training with a random number of codebooks (section III-C, always).
        codebook_decay, kmeans_iterations, revive_below, residual_gradient: training of the codebooks (section III-C),
            see `modeling.quantization`.
        denoising: where feature-wise linear modulation sits that switches denoising on and off (section III-F, at the
            bottleneck): `"none"`, `"encoder"` or `"decoder"`.
    """

    model_type = "soundstream"

    presets: ClassVar[dict[str, dict]] = {
        "soundstream_24khz": {},
        # Small enough to learn on a CPU; see recipes/soundstream_16khz.yaml.
        "soundstream_16khz_small": {
            "sampling_rate": 16000,
            "num_filters": 16,
            "strides": (2, 4, 5, 8),
            "hidden_size": 64,
            "num_quantizers": 8,
        },
    }

    sampling_rate: int = 24_000
    audio_channels: int = 1
    num_filters: int = 32
    strides: list[int] | tuple[int, ...] = (2, 4, 5, 8)
    hidden_size: int = 256
    kernel_size: int = 7
    last_kernel_size: int = 3
    residual_kernel_size: int = 7
    num_residual_layers: int = 3
    dilation_growth_rate: int = 3
    num_quantizers: int = 24
    quantizer_dropout: float = 1.0
    kmeans_iterations: int | None = 10
    revive_below: float | None = 0.1
    residual_gradient: bool = True
    denoising: str = "none"

    def validate_architecture(self):
        if self.denoising not in DENOISING:
            raise ValueError(f"denoising must be one of {DENOISING}, got {self.denoising!r}.")

    @property
    def hop_length(self) -> int:
        return math.prod(self.strides)

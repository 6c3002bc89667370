"""SoundStream as released with Lyra V2 (github.com/google/lyra, version 1.3.2), and the bundled codec made of it."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .codec_base import ResidualCodecConfig

ARITHMETICS = ("float", "clamped", "integer")


@strict
class LyraCodecConfig(ResidualCodecConfig):
    """Configuration of `LyraCodecModel`. The defaults are the released model.

    Args:
        target_bandwidths: rates in kbps that the program offers; any number of codebooks works.
        sampling_rate: Hz.
        audio_channels: 1.
        hidden_size: channels of the latents.
        strides: of the first convolution and of the one after each encoder stage; the decoder mirrors them.
        channels: after each of these convolutions.
        groups: of the grouped convolutions of each encoder stage; the convolutions beside the latents have the last.
        kernel_size: of the convolutions beside the waveform; the other strided ones have twice their stride.
        residual_kernel_size, residual_dilations: of the depthwise convolutions, one residual unit per dilation.
        latent_kernel_size: of the convolutions beside the latents.
        leaky_relu_slope: of every activation.
        encoder_context_layers, decoder_context_layers: ConvNeXt blocks at the frame rate, after the encoder and before
            the decoder (see `modeling.layers.convnext.ConvNeXtContext`). Lyra V2 has none.
        context_size, context_kernel_size, context_expansion: of these blocks.
        arithmetic: of the layers next to the latents, which the original runs in int8: `"integer"` gives the
            original's integers, `"clamped"` floating point within the range of int8 (see `modeling.layers.int8`),
            `"float"` plain floating point, to train; such a checkpoint has no int8 grids.
        num_quantizers: codebooks; 46 x 4 bits x 50 Hz = 9.2 kbps.
        codebook_size: entries per codebook.
        semantic_hidden_size: features of the speech model that taught the first codebook, see
            `modeling.codec_semantic`; `None`: none did.
        codebook_decay, kmeans_iterations, revive_below, residual_gradient: training of the codebooks, see
            `modeling.quantization`. How the original was trained is not published.
    """

    model_type = "soundstream_lyra"

    presets: ClassVar[dict[str, dict]] = {"lyra_v2": {}}

    target_bandwidths: list[float] | tuple[float, ...] = (3.2, 6.0, 9.2)
    sampling_rate: int = 16_000
    audio_channels: int = 1
    hidden_size: int = 64
    strides: list[int] | tuple[int, ...] = (16, 5, 2, 2)
    channels: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    groups: list[int] | tuple[int, ...] = (1, 2, 4)
    kernel_size: int = 64
    residual_kernel_size: int = 3
    residual_dilations: list[int] | tuple[int, ...] = (1, 3, 9)
    latent_kernel_size: int = 3
    leaky_relu_slope: float = 0.3
    encoder_context_layers: int = 0
    decoder_context_layers: int = 0
    context_size: int = 192
    context_kernel_size: int = 7
    context_expansion: int = 3
    arithmetic: str = "integer"
    num_quantizers: int = 46
    codebook_size: int = 16
    semantic_hidden_size: int | None = None
    kmeans_iterations: int | None = 10
    residual_gradient: bool = True

    def validate_architecture(self):
        if self.arithmetic not in ARITHMETICS:
            raise ValueError(f"arithmetic must be one of {ARITHMETICS}, got {self.arithmetic!r}.")
        if len(self.strides) != len(self.channels) or len(self.groups) != len(self.channels) - 1:
            raise ValueError(
                f"strides {self.strides} and channels {self.channels} must be equally many, and groups {self.groups} "
                "one fewer: one entry per encoder stage."
            )

    @property
    def hop_length(self) -> int:
        return math.prod(self.strides)

    @property
    def bandwidths(self) -> list[float]:
        return list(self.target_bandwidths)

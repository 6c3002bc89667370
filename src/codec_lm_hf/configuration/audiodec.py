"""AudioDec (Wu et al., 2023, "AudioDec: An Open-source Streaming High-fidelity Neural Audio Codec")."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .codec_base import ResidualCodecConfig

DECODER_TYPES = ("symmetric", "vocoder")
DECODER_PAD_MODES = ("replicate", "constant")

_SYM_AD_24 = {"sampling_rate": 24_000}
_SYM_AD_48 = {"sampling_rate": 48_000}
# Three kernels side by side, and what replaced them: one kernel in three groups.
_V0 = {
    "decoder_type": "vocoder",
    "vocoder_groups": 1,
    "vocoder_residual_kernel_sizes": (3, 7, 11),
    "vocoder_residual_dilations": ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
}
_V1 = {"decoder_type": "vocoder"}
_V2 = {"decoder_type": "vocoder", "vocoder_residual_kernel_sizes": (3,)}


@strict
class AudioDecCodecConfig(ResidualCodecConfig):
    """Configuration of `AudioDecCodecModel`. The defaults are the 24 kHz autoencoder, `symAD_libritts_24000_hop300`.

    The presets that are named `AudioDec_v...` are an autoencoder whose decoder was replaced by a vocoder.

    Args:
        sampling_rate: Hz.
        audio_channels: of the waveform; 1 with a vocoder.
        encoder_channels: after the encoder's first convolution.
        encoder_ratios: width after each stage of the encoder, in `encoder_channels`.
        encoder_strides: of each stage of the encoder.
        decoder_channels: before the symmetric decoder's last convolution.
        decoder_ratios: width before each stage of the symmetric decoder, in `decoder_channels`.
        decoder_strides: of each stage of the symmetric decoder.
        use_strided_bias: convolutions that change the rate have a bias. No other convolution of the autoencoder has.
        use_causal_conv: of the autoencoder. Otherwise nothing streams, and a last frame gets no code if a strided
            convolution finds one step of it only; no published model is so.
        activation: of the autoencoder, `"elu"` or `"leaky_relu"`.
        negative_slope: of a leaky ReLU; 0 is a plain one.
        use_outer_activations: activations also after the encoder's last stage and between the stages of the symmetric
            decoder, and a hyperbolic tangent at its end ("symAAD").
        norm_type: of the autoencoder, `"none"` or `"weight_norm"`.
        hidden_size: channels of the latents, which is the length of a codebook's entry.
        num_quantizers: codebooks.
        codebook_size: entries per codebook.
        codebook_decay, kmeans_iterations, revive_below, residual_gradient: training of the codebooks, see
            `modeling.quantization`; the defaults are the original's behaviour.
        decoder_type: `"symmetric"`, the autoencoder's own decoder, or `"vocoder"`.
        decoder_pad_mode: what stands before the first frame in transposed convolutions: `"replicate"`, the first frame
            again, which is what the original does offline, or `"constant"`, zeros, which is what it does in a stream.
        vocoder_channels: after the vocoder's first convolution; halved at every stage.
        vocoder_kernel_size: of the vocoder's first and last convolution.
        vocoder_ratios: steps for one step at each stage of the vocoder.
        vocoder_residual_kernel_sizes, vocoder_residual_dilations: of the residual blocks at each stage.
        vocoder_groups: with one kernel size, copies of the input that one residual block processes at once; otherwise
            groups of the convolutions of as many blocks as there are kernel sizes, of which the mean is taken.
        vocoder_paired_convolutions: a second, undilated convolution in every residual step.
        vocoder_norm_type: `"none"` or `"weight_norm"`.
    """

    model_type = "audiodec_codec"

    presets: ClassVar[dict[str, dict]] = {
        "symAD_libritts_24000_hop300": _SYM_AD_24,
        "symAD_vctk_48000_hop300": _SYM_AD_48,
        "symADuniv_vctk_48000_hop300": _SYM_AD_48,
        "symAAD_vctk_48000_hop300": {**_SYM_AD_48, "use_outer_activations": True, "norm_type": "weight_norm"},
        "symAD_c16_vctk_48000_hop320": {
            **_SYM_AD_48,
            "encoder_strides": (2, 4, 5, 8),
            "decoder_strides": (8, 5, 4, 2),
            "num_quantizers": 16,
        },
        "denoise_symAD_vctk_48000_hop300": _SYM_AD_48,
        "AudioDec_v1_symAD_libritts_24000_hop300_clean": {**_SYM_AD_24, **_V1},
        "AudioDec_v0_symAD_vctk_48000_hop300_clean": {**_SYM_AD_48, **_V0},
        "AudioDec_v1_symAD_vctk_48000_hop300_clean": {**_SYM_AD_48, **_V1},
        "AudioDec_v2_symAD_vctk_48000_hop300_clean": {**_SYM_AD_48, **_V2},
        # The architecture of v1, trained with UnivNet's discriminator.
        "AudioDec_v3_symADuniv_vctk_48000_hop300_clean": {**_SYM_AD_48, **_V1},
    }

    sampling_rate: int = 24_000
    audio_channels: int = 1
    encoder_channels: int = 32
    encoder_ratios: list[int] | tuple[int, ...] = (2, 4, 8, 16)
    encoder_strides: list[int] | tuple[int, ...] = (3, 4, 5, 5)
    decoder_channels: int = 32
    decoder_ratios: list[int] | tuple[int, ...] = (16, 8, 4, 2)
    decoder_strides: list[int] | tuple[int, ...] = (5, 5, 4, 3)
    use_strided_bias: bool = True
    use_causal_conv: bool = True
    activation: str = "elu"
    negative_slope: float = 0.2
    use_outer_activations: bool = False
    norm_type: str = "none"
    hidden_size: int = 64
    codebook_decay: float = 0.8
    kmeans_iterations: int | None = None
    decoder_type: str = "symmetric"
    decoder_pad_mode: str = "replicate"
    vocoder_channels: int = 512
    vocoder_kernel_size: int = 7
    vocoder_ratios: list[int] | tuple[int, ...] = (5, 5, 4, 3)
    vocoder_residual_kernel_sizes: list[int] | tuple[int, ...] = (11,)
    vocoder_residual_dilations: list[list[int]] | tuple[tuple[int, ...], ...] | list[tuple[int, ...]] = ((1, 3, 5),)
    vocoder_groups: int = 3
    vocoder_paired_convolutions: bool = True
    vocoder_norm_type: str = "weight_norm"

    def validate_architecture(self):
        for name, allowed in (("decoder_type", DECODER_TYPES), ("decoder_pad_mode", DECODER_PAD_MODES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}.")
        for side in ("encoder", "decoder"):
            ratios, strides = getattr(self, f"{side}_ratios"), getattr(self, f"{side}_strides")
            if len(ratios) != len(strides):
                raise ValueError(f"{side}_ratios {ratios} and {side}_strides {strides} must be equally many.")
        name = "vocoder_ratios" if self.decoder_type == "vocoder" else "decoder_strides"
        if math.prod(getattr(self, name)) != self.hop_length:
            raise ValueError(
                f"{name} {getattr(self, name)} must multiply to the hop length of encoder_strides, {self.hop_length}."
            )
        if self.decoder_type == "vocoder" and self.audio_channels != 1:
            raise ValueError(f"a vocoder makes one channel, but audio_channels is {self.audio_channels}.")

    @property
    def hop_length(self) -> int:
        return math.prod(self.encoder_strides)

    @property
    def bandwidths(self) -> list[float]:
        """One rate: the model is trained with all codebooks at all times."""
        return [self.bandwidth_of(self.num_quantizers)]

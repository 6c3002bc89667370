"""A codec that works on short-time spectra: small and quick enough to be trained on a CPU."""

from __future__ import annotations

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .codec_base import ResidualCodecConfig


@strict
class StftCodecConfig(ResidualCodecConfig):
    """Configuration of `StftCodecModel`. The defaults are a codec of 16 kHz, 50 frames/s, 0.5 to 4 kbps.

    Not a published system. It takes frequency-domain frames as FunCodec's does (Du et al., 2023) and rebuilds the
    waveform as Vocos does (Siuzdak, 2023).

    Args:
        sampling_rate: Hz.
        audio_channels: 1.
        hop_length: samples per frame.
        analysis_window: samples of the analysis window and FFT, at least `hop_length`.
        synthesis_window: samples of the synthesis window and FFT, a multiple of `hop_length`.
        synthesis_lookahead: samples of a synthesis window after its own hop: the codec's latency.
        hidden_size: channels of the blocks.
        latent_size: channels of the latents and length of a codebook entry.
        encoder_layers, decoder_layers: ConvNeXt blocks.
        kernel_size, expansion, layer_scale: see `modeling.layers.convnext`.
        num_quantizers: codebooks.
        codebook_size: entries per codebook.
        codebook_decay, kmeans_iterations, revive_below, residual_gradient: training of the codebooks, see
            `modeling.quantization`.
    """

    model_type = "stft_codec"

    presets: ClassVar[dict[str, dict]] = {"stft_codec_16khz": {}}

    sampling_rate: int = 16_000
    audio_channels: int = 1
    hop_length: int = 320
    analysis_window: int = 640
    synthesis_window: int = 1280
    synthesis_lookahead: int = 480
    hidden_size: int = 192
    latent_size: int = 40
    encoder_layers: int = 3
    decoder_layers: int = 5
    kernel_size: int = 7
    expansion: int = 3
    layer_scale: float = 0.1
    quantizer_dropout: float = 0.4
    kmeans_iterations: int | None = 10
    revive_below: float | None = 0.1
    residual_gradient: bool = True

    def validate_architecture(self):
        if self.analysis_window < self.hop_length:
            raise ValueError(
                f"analysis_window {self.analysis_window} must not be less than hop_length {self.hop_length}."
            )
        if self.synthesis_window % self.hop_length:
            raise ValueError(
                f"synthesis_window {self.synthesis_window} must be a multiple of hop_length {self.hop_length}."
            )

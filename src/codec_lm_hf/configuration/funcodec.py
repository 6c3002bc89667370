"""FunCodec (Du et al., 2023, "FunCodec: A Fundamental, Reproducible and Integrable Open-source Toolkit ...")."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .codec_base import ResidualCodecConfig

SEMANTIC_MODES = ("residual", "addition", "concat", "supervision")

# Planes that describe a spectrum, see `FunCodecConfig.domain`.
PLANES = {"mag_phase": 3, "mag_angle": 2, "stft": 2}

_DS640 = {"upsampling_ratios": (8, 5, 4, 2, 2), "quantizer_choices": (2, 4, 8, 16, 32)}
_MAG_PHASE = {
    "domain": "mag_phase",
    "frequency_ratios": (4, 4, 4, 4),
    "upsampling_ratios": (1, 1, 2, 1),
    "dilation_growth_rate": 1,
}


def _grouped(ratio: int) -> dict:
    ratios = dict.fromkeys(("encoder_group_ratio", "decoder_group_ratio", "transposed_group_ratio"), ratio)
    return {**_MAG_PHASE, **ratios, "num_lstm_layers": 0}


@strict
class FunCodecConfig(ResidualCodecConfig):
    """Configuration of `FunCodecModel`. The defaults are `audio_codec-encodec-en-libritts-16k-nq32ds320`.

    Args:
        sampling_rate: Hz.
        audio_channels: 1.
        normalize: see `CodecConfig`; on in every recipe.
        domain: what the network reads and writes: `"time"`, the waveform, or short-time spectra as planes:
            `"mag_phase"`, log magnitude and the real and imaginary parts of the unit phasor; `"mag_angle"`, log
            magnitude and angle; `"stft"`, real and imaginary part.
        robust_angles: in `"mag_angle"`, an imaginary part that is no more than rounding counts as zero. The first
            window, reflected at its middle, has such ones only, and in the original their signs, which the CPU and the
            number of rows may change, choose pi or -pi as the angle of a negative real number. For new models.
        window_size: of the centred Hann windows of the spectra, in samples.
        stft_hop_length: samples from spectrum to spectrum.
        frequency_ratios: strides along frequency of a network over frequency and time, stage by stage; their product
            is half the window. `None`: a network over time, whose channels are the bins of all planes.
        encoder_group_ratio, decoder_group_ratio, transposed_group_ratio: groups of the convolutions of a network over
            frequency and time, see `modeling.layers.seanet2d`; `None`: one group.
        hidden_size: channels of the latents.
        num_filters, num_residual_layers, kernel_size, last_kernel_size, residual_kernel_size, dilation_growth_rate,
            compress, use_conv_shortcut, num_lstm_layers, trim_right_ratio: see `modeling.layers.seanet`.
        upsampling_ratios: strides along time, in the decoder's order.
        activation: `"elu"` (the published models), `"leaky_relu"` (of slope 0.2) or `"snake"`.
        norm_type: `"time_group_norm"` (the published models), `"weight_norm"` or `"none"`.
        use_causal_conv: no look-ahead; off in the published models.
        pad_mode: `"reflect"`, `"constant"` or `"replicate"`.
        num_quantizers: codebooks.
        codebook_size: entries per codebook.
        quantizer_dropout: probability that a training step uses fewer codebooks than asked for.
        quantizer_choices: the numbers of codebooks that such a step draws from, one for the whole batch; `None`: any
            number, drawn for each row.
        codebook_decay, kmeans_iterations, revive_below, residual_gradient: training of the codebooks, see
            `modeling.quantization`; the defaults are the original's behaviour.
        semantic_mode: what is done with frame-level semantic ids (of phonemes, say) that are given beside the audio:
            their embeddings are taken off the latents before quantization and put back after it (`"residual"`), added
            after it (`"addition"`), or joined to the quantized latents by a convolution (`"concat"`); or they are
            what a classifier shall read from the first codebook, in training only (`"supervision"`). `None`: there
            are none.
        semantic_vocab_size: kinds of semantic ids.
        semantic_downsampling: semantic ids per frame.
        semantic_downsampling_conv: bring them to the frame rate by convolutions; off, and for the classifier: take
            every n-th.
        semantic_gradient_scale: of the classifier's loss, as far as the encoder follows it. The original reads such a
            number (`ppg_supervision_weight`), but nowhere sets it.

    Source: `egs/LibriTTS/codec/conf/*.yaml` of the original, whose recipes the published checkpoints follow.
    """

    model_type = "funcodec"

    presets: ClassVar[dict[str, dict]] = {
        "audio_codec-encodec-en-libritts-16k-nq32ds320": {},
        "audio_codec-encodec-en-libritts-16k-nq32ds640": _DS640,
        "audio_codec-encodec-zh_en-general-16k-nq32ds320": {},
        "audio_codec-encodec-zh_en-general-16k-nq32ds640": _DS640,
        # Inferred from the size of the released file: its config.yaml was not available when this was written.
        "audio_codec-freqcodec_magphase-en-libritts-16k-gr1nq32ds320": _grouped(1),
        # Unconfirmed: a candidate that does not match the size of the released file. Convert by its config.yaml.
        "audio_codec-freqcodec_magphase-en-libritts-16k-gr8nq32ds320": _grouped(8),
        # Recipes without published weights.
        "freqcodec_mag_phase_16k_n32": _MAG_PHASE,
        "soundstream_16k_n32": {
            "hidden_size": 512,
            "num_residual_layers": 3,
            "norm_type": "weight_norm",
            "use_causal_conv": True,
            "num_lstm_layers": 0,
        },
    }

    sampling_rate: int = 16_000
    audio_channels: int = 1
    normalize: bool = True
    domain: str = "time"
    robust_angles: bool = False
    window_size: int = 512
    stft_hop_length: int = 160
    frequency_ratios: list[int] | tuple[int, ...] | None = None
    encoder_group_ratio: int | None = None
    decoder_group_ratio: int | None = None
    transposed_group_ratio: int | None = None
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: list[int] | tuple[int, ...] = (8, 5, 4, 2)
    activation: str = "elu"
    norm_type: str = "time_group_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = False
    pad_mode: str = "reflect"
    compress: int = 2
    use_conv_shortcut: bool = True
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    num_quantizers: int = 32
    quantizer_dropout: float = 1.0
    quantizer_choices: list[int] | tuple[int, ...] | None = (1, 2, 4, 8, 16, 32)
    semantic_mode: str | None = None
    semantic_vocab_size: int = 86
    semantic_downsampling: int = 2
    semantic_downsampling_conv: bool = True
    semantic_gradient_scale: float = 1.0

    def validate_architecture(self):
        if self.audio_channels != 1:
            raise ValueError(f"audio_channels must be 1, got {self.audio_channels}: FunCodec is mono.")
        if self.domain not in ("time", *PLANES):
            raise ValueError(f"domain must be one of {('time', *PLANES)}, got {self.domain!r}.")
        if self.frequency_ratios is None:
            if any((self.encoder_group_ratio, self.decoder_group_ratio, self.transposed_group_ratio)):
                raise ValueError(
                    "group ratios need frequency_ratios: only networks over frequency and time have groups."
                )
        elif self.domain == "time":
            raise ValueError("frequency_ratios need a domain of spectra, but domain is 'time'.")
        elif len(self.frequency_ratios) != len(self.upsampling_ratios):
            raise ValueError(
                f"frequency_ratios {self.frequency_ratios} and upsampling_ratios {self.upsampling_ratios} must have "
                "one stride for each stage."
            )
        elif 2 * math.prod(self.frequency_ratios) != self.window_size:
            raise ValueError(
                f"the product of frequency_ratios {self.frequency_ratios} must be half of window_size "
                f"{self.window_size}."
            )
        if self.semantic_mode not in (None, *SEMANTIC_MODES):
            raise ValueError(f"semantic_mode must be one of {SEMANTIC_MODES}, or None; got {self.semantic_mode!r}.")
        if self.semantic_mode not in (None, "supervision") and self.chunk_length_s is not None:
            raise ValueError("semantic ids do not come in segments: leave out semantic_mode or chunk_length_s.")
        if self.quantizer_choices is not None and (not self.quantizer_choices or min(self.quantizer_choices) < 1):
            raise ValueError(f"quantizer_choices must be numbers from 1 on, or None; got {self.quantizer_choices}.")

    @property
    def hop_length(self) -> int:
        return math.prod(self.upsampling_ratios) * (1 if self.domain == "time" else self.stft_hop_length)

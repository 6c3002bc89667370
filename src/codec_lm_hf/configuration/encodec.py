"""EnCodec (Défossez et al., 2022, "High Fidelity Neural Audio Compression")."""

from __future__ import annotations

import math
from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ..registry import family
from .codec_base import ResidualCodecConfig

_RATES_24KHZ = (1.5, 3.0, 6.0, 12.0, 24.0)
_RATES_48KHZ = (3.0, 6.0, 12.0, 24.0)


@strict
class EncodecCodecConfig(ResidualCodecConfig):
    """Configuration of `EncodecCodecModel`. The defaults are the 24 kHz model (`facebook/encodec_24khz`).

    Fields that transformers' own `EncodecConfig` has bear the same names, so its checkpoints load as they are.

    Args:
        target_bandwidths: rates in kbps, ascending; the last one sets the number of codebooks.
        sampling_rate: Hz.
        audio_channels: 1 or 2.
        chunk_length_s: length in seconds of the segments that are coded one by one; `None`: the whole signal at once.
        overlap: share of a segment that overlaps with the next.
        hidden_size: channels of the latents.
        num_filters, num_residual_layers, upsampling_ratios, kernel_size, last_kernel_size, residual_kernel_size,
            dilation_growth_rate, compress, use_conv_shortcut, num_lstm_layers, trim_right_ratio: see
            `modeling.layers.seanet`.
        norm_type: `"weight_norm"`, `"time_group_norm"` or `"none"`.
        use_causal_conv: no look-ahead.
        pad_mode: `"reflect"`, `"constant"` or `"replicate"`.
        codebook_size: entries per codebook.
        codebook_dim: length of an entry; `hidden_size` if not given (nothing else is supported).
        num_quantizers: codebooks; from the top bandwidth if not given.
        codebook_decay, kmeans_iterations, revive_below, residual_gradient: training of the codebooks, see
            `modeling.quantization`; the defaults are the original's behaviour.
        original_name: what the original calls this model in the header of `.ecdc` files.
    """

    model_type = "encodec_codec"
    native_types: ClassVar[tuple[str, ...]] = family("encodec").native

    presets: ClassVar[dict[str, dict]] = {
        "encodec_24khz": {"original_name": "encodec_24khz"},
        "encodec_48khz": {
            "original_name": "encodec_48khz",
            "target_bandwidths": _RATES_48KHZ,
            "sampling_rate": 48000,
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 1.0,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
        },
        # The compression model of MusicGen, as AudioCraft runs it.
        "encodec_32khz": {
            "target_bandwidths": (2.2,),
            "sampling_rate": 32000,
            "num_filters": 64,
            "upsampling_ratios": (8, 5, 4, 4),
            "codebook_size": 2048,
            "use_causal_conv": False,
            "use_conv_shortcut": False,
            "pad_mode": "constant",
        },
    }

    target_bandwidths: list[float] | tuple[float, ...] = _RATES_24KHZ
    sampling_rate: int = 24_000
    audio_channels: int = 1
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: list[int] | tuple[int, ...] = (8, 5, 4, 2)
    norm_type: str = "weight_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_dim: int | None = None
    use_conv_shortcut: bool = True
    num_quantizers: int | None = None
    original_name: str | None = None

    def __post_init__(self, **kwargs):
        if self.codebook_dim is None:
            self.codebook_dim = self.hidden_size
        if self.num_quantizers is None:
            # The original's integer arithmetic, on a rate rounded up to whole frames and (as there) 10 bits per code;
            # transformers replaces the 10 by the codebook's bits, which is what its 32 kHz checkpoint needs.
            self.num_quantizers = int(1000 * max(self.target_bandwidths) // (self.frame_rate * self.bits_per_code))
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        if self.codebook_dim != self.hidden_size:
            raise ValueError(f"codebook_dim ({self.codebook_dim}) must equal hidden_size ({self.hidden_size}).")
        if self.num_quantizers < 1:
            raise ValueError(f"target_bandwidths {self.target_bandwidths} are too low for a single codebook.")

    @staticmethod
    def _from_native(config_dict: dict) -> dict:
        fields = {name: value for name, value in config_dict.items() if name not in ("model_type", "architectures")}
        # They do not say what the original calls them, and only these two have a name there.
        names = {24_000: "encodec_24khz", 48_000: "encodec_48khz"}
        return {"original_name": names.get(fields.get("sampling_rate")), **fields}

    @property
    def hop_length(self) -> int:
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        return math.ceil(self.sampling_rate / self.hop_length)

    @property
    def bandwidths(self) -> list[float]:
        return list(self.target_bandwidths)

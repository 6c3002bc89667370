"""The figures every codec states by its configuration alone."""

from __future__ import annotations

import math

from .presets import PresetConfig

# Recordings mastered hot, or stored as floats, may pass 1; nothing real comes near this, 16-bit integers do.
LARGEST_PEAK = 32.0


class CodecConfig(PresetConfig):
    """Base of every codec's configuration.

    A family defines its own fields; whatever it calls them, these are readable on all of them:

    | name | meaning |
    |---|---|
    | `sampling_rate` | Hz |
    | `audio_channels` | 1 or 2 |
    | `hop_length` | samples per frame |
    | `frame_rate` | frames per second (Hz) |
    | `num_codebooks` | codes per frame |
    | `codebook_size` | entries per codebook |
    | `bandwidths` | the rates in kbps that the model was made for, ascending |
    | `normalize` | each row (or segment) is divided by its RMS, which is handed on beside the codes |
    | `quantizer_dropout` | training only: probability that a row has one of `bandwidths`, drawn at random |
    | `chunk_length_s` | seconds of the segments that are coded one by one; `None`: the whole signal at once |
    | `overlap` | share of a segment that overlaps with the next |
    | `fused` | the checkpoint holds plain weights instead of the weight-norm pair (`CodecPreTrainedModel.fuse`) |

    `presets` names the published variants: `ConfigClass.from_preset("name")`.
    """

    normalize: bool = False
    quantizer_dropout: float = 0.0
    fused: bool = False
    chunk_length_s: int | float | None = None
    overlap: float | None = None

    def validate_segments(self):
        if self.chunk_length_s is None:
            return
        if self.overlap is None:
            raise ValueError("chunk_length_s needs overlap, the share of a segment that overlaps with the next.")
        if self.chunk_length < self.hop_length or not 0 <= self.overlap < 1:
            raise ValueError(
                f"chunk_length_s ({self.chunk_length_s:g}) must be a frame of {self.hop_length} samples or more, and "
                f"overlap ({self.overlap:g}) a share from 0 to below 1."
            )

    @property
    def hop_length(self) -> int:
        raise AttributeError(f"{type(self).__name__} must define hop_length.")

    @property
    def num_codebooks(self) -> int:
        raise AttributeError(f"{type(self).__name__} must define num_codebooks.")

    @property
    def chunk_length(self) -> int | None:
        """Samples of a segment."""
        return None if self.chunk_length_s is None else int(self.chunk_length_s * self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from the start of a segment to the start of the next."""
        return None if self.chunk_length_s is None else max(1, int((1.0 - self.overlap) * self.chunk_length))

    @property
    def frame_rate(self) -> float:
        return self.sampling_rate / self.hop_length

    @property
    def bits_per_code(self) -> int:
        return math.ceil(math.log2(self.codebook_size))

    @property
    def bandwidths(self) -> list[float]:
        return [self.bandwidth_of(count) for count in range(1, self.num_codebooks + 1)]

    def bandwidth_of(self, num_quantizers: int) -> float:
        """Rate in kbps of `num_quantizers` codes per frame."""
        return num_quantizers * self.bits_per_code * self.frame_rate / 1000

    def num_quantizers_for(self, bandwidth: float) -> int:
        """Codes per frame that fit `bandwidth` kbps (at least one).

        Raises:
            ValueError: the bandwidth is none of `bandwidths`.
        """
        if not any(math.isclose(bandwidth, known, rel_tol=1e-6) for known in self.bandwidths):
            rates = ", ".join(f"{rate:g}" for rate in self.bandwidths)
            raise ValueError(
                f"bandwidth={bandwidth:g} kbps is not offered by this model; choose one of: {rates} kbps."
            )
        per_quantizer = self.bits_per_code * self.frame_rate
        return max(1, min(self.num_codebooks, int(bandwidth * 1000 / per_quantizer + 1e-6)))


class ResidualCodecConfig(CodecConfig):
    """Base of the configurations of codecs with a chain of codebooks that follow moving averages.

    | name | meaning |
    |---|---|
    | `num_quantizers` | codebooks |
    | `codebook_size` | entries per codebook |
    | `codebook_decay`, `kmeans_iterations`, `revive_below` | see `modeling.quantization.EuclideanCodebook` |
    | `residual_gradient` | see `modeling.quantization.ResidualVectorQuantizer` |

    The defaults are the behaviour of EnCodec's code.
    """

    num_quantizers: int = 8
    codebook_size: int = 1024
    codebook_decay: float = 0.99
    kmeans_iterations: int | None = 50
    revive_below: float | None = None
    residual_gradient: bool = False

    @property
    def num_codebooks(self) -> int:
        return self.num_quantizers

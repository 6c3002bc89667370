"""`.lyra`, the files of Lyra V2's own programs, byte for byte: packets of one frame each, and nothing else.

A packet holds a frame's codes of 4 bits each, the first codebook in the highest bits, filled up to whole bytes: 8
bytes at 3.2 kbps, 15 at 6 kbps, 23 at 9.2 kbps. There is no header, so a reader must be told the rate, and no length:
audio is coded in whole frames, and what is left at its end is dropped. (`lyra/lyra_encoder.cc`, `lyra/packet.h`)
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from ..configuration.codec_base import CodecConfig
from ..modeling.codec_base import CodecPreTrainedModel
from .errors import BitstreamError

_BITS = 4


def compress(
    model: CodecPreTrainedModel,
    audio: np.ndarray,
    num_quantizers: int | None = None,
    bandwidth: float | None = None,
) -> bytes:
    """Audio to packets.

    Args:
        model: a codec with 16 entries per codebook, in eval mode.
        audio: `(channels, samples)` float in [-1, 1] at the codec's rate. Samples beyond the last whole frame are
            dropped.
        num_quantizers, bandwidth: as in `CodecPreTrainedModel.encode`. The original reads 3.2, 6 and 9.2 kbps.

    Raises:
        ValueError: a codec whose codes are not of 4 bits, or audio shorter than a frame.
    """
    _check_codec(model.config)
    hop = model.config.hop_length
    whole = audio.shape[-1] // hop * hop
    if whole == 0:
        raise ValueError(
            f"{audio.shape[-1]} samples are less than a frame, and .lyra holds whole frames of {hop} samples."
        )
    values = torch.from_numpy(np.ascontiguousarray(audio[None, :, :whole])).to(model.device)
    with torch.no_grad():
        codes = model.encode(values, num_quantizers=num_quantizers, bandwidth=bandwidth).audio_codes
    return pack(codes[0].cpu().numpy())


def decompress(
    data: bytes, model: CodecPreTrainedModel, num_quantizers: int | None = None, bandwidth: float | None = None
) -> np.ndarray:
    """Packets to float32 audio `(channels, samples)`.

    Args:
        data: the file. Bytes beyond the last whole packet are dropped with a warning, as the original does.
        model: the codec, in eval mode.
        num_quantizers, bandwidth: what the file was written with; one of them must be given.

    Raises:
        BitstreamError: the rate is not given, or there is not one whole packet.
        ValueError: a rate that the codec does not have.
    """
    _check_codec(model.config)
    if num_quantizers is None and bandwidth is None:
        rates = ", ".join(f"{rate:g}" for rate in model.config.bandwidths)
        raise BitstreamError(
            f"a .lyra file does not say its rate; give the bandwidth it was written with ({rates} kbps)."
        )
    if bandwidth is not None:
        num_quantizers = model.config.num_quantizers_for(bandwidth)
    available = model.config.num_codebooks
    if not 1 <= num_quantizers <= available:
        raise ValueError(f"num_quantizers={num_quantizers}, but this model has 1 to {available} quantizers.")
    codes = torch.from_numpy(unpack(data, num_quantizers))[None].to(model.device)
    with torch.no_grad():
        return model.decode(codes).audio_values[0].float().cpu().numpy()


def packet_size(num_quantizers: int) -> int:
    """Bytes of a packet with `num_quantizers` codes."""
    return -(-num_quantizers * _BITS // 8)


def pack(codes: np.ndarray) -> bytes:
    """Codes `(codebooks, frames)` of 0..15 to packets."""
    bits = (codes.T[..., None] >> np.arange(_BITS - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(codes.shape[1], -1).astype(np.uint8), axis=1).tobytes()


def unpack(data: bytes, num_quantizers: int) -> np.ndarray:
    """Packets to codes int64 `(num_quantizers, frames)`.

    Raises:
        BitstreamError: there is not one whole packet.
    """
    size = packet_size(num_quantizers)
    frames, rest = divmod(len(data), size)
    if frames == 0:
        raise BitstreamError(
            f"{len(data)} bytes are less than a packet, which has {size} with {num_quantizers} codes."
        )
    if rest:
        warnings.warn(
            f"{rest} bytes beyond the last of {frames} packets of {size} bytes are dropped: the file is cut short, or "
            "it was written at another rate.",
            stacklevel=2,
        )
    packets = np.frombuffer(data, np.uint8, frames * size).reshape(frames, size)
    bits = np.unpackbits(packets, axis=1, count=num_quantizers * _BITS).reshape(frames, num_quantizers, _BITS)
    return (bits @ (1 << np.arange(_BITS - 1, -1, -1))).T.copy()


def to_pcm16(audio: np.ndarray) -> np.ndarray:
    """Float audio to 16-bit samples as the original does it: times 32768, limited, cut off towards zero."""
    return np.clip(audio.astype(np.float32) * 32768, -32768, 32767).astype(np.int16)


def _check_codec(config: CodecConfig) -> None:
    if config.codebook_size != 1 << _BITS:
        raise ValueError(
            f".lyra packets hold codes of {1 << _BITS} values, and this codec's codebooks have {config.codebook_size} "
            "entries; write .codes."
        )

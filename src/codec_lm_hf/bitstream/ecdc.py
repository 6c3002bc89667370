"""`.ecdc`, the files of EnCodec's own program, bit for bit.

    magic     4 bytes  b"ECDC"
    version   u8       0
    length    u32      of the header
    header    JSON     m: model, al: samples per channel, nc: codes per frame, lm: whether a language model was used
    segment*  for models that normalise the scale as float32, then the codes, filled up to whole bytes

Integers and scales are big-endian. Codes go frame by frame, within a frame codebook by codebook: without a language
model in `bits_per_code` bits each, least significant bit first; with one through `ArithmeticEncoder`, by the model's
probabilities. There is no checksum, and no length but that of the audio. (`encodec/compress.py`, `encodec/binary.py`)

With a language model a file is only readable where float32 arithmetic gives the very same bits as where it was
written: the same kind of processor, the same torch, as many threads. This is so in the original too, and it is why the
model is run one frame at a time here: a whole segment in one pass would give other last bits.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..configuration.encodec import EncodecCodecConfig
from ..modeling.encodec import EncodecCodecModel
from ..modeling.encodec_entropy_lm import EncodecEntropyLMModel
from .arithmetic import ArithmeticDecoder, ArithmeticEncoder, cumulative_tables
from .errors import BitstreamError

MAGIC = b"ECDC"
VERSION = 0
MAX_HEADER = 1 << 16
_START = struct.Struct(">4sBI")
_SCALE = struct.Struct(">f")


@dataclass(frozen=True)
class EcdcHeader:
    """What an `.ecdc` file says of itself.

    Attributes:
        model_name: the original's name of the codec, `encodec_24khz` or `encodec_48khz`.
        samples: length of the audio, per channel.
        num_codebooks: codes per frame.
        uses_lm: decoding takes the language model.
        size: bytes up to the first segment.
    """

    model_name: str
    samples: int
    num_codebooks: int
    uses_lm: bool
    size: int


def read_header(data: bytes) -> EcdcHeader:
    """The header of a file.

    Raises:
        BitstreamError: no such file, another version, cut short, or a header that makes no sense.
    """
    if data[:4] != MAGIC[: len(data)] or not data:
        raise BitstreamError(f"this is no .ecdc file: it begins with {data[:4]!r}, not {MAGIC!r}.")
    if len(data) < _START.size:
        raise BitstreamError("the file ends within its header: it was cut short.")
    _, version, length = _START.unpack_from(data)
    if version != VERSION:
        raise BitstreamError(f"this .ecdc file has version {version}; this program reads version {VERSION}.")
    if length > MAX_HEADER:
        raise BitstreamError(
            f"the header claims {length} bytes (at most {MAX_HEADER} are allowed): the file is damaged."
        )
    size = _START.size + length
    if len(data) < size:
        raise BitstreamError("the file ends within its header: it was cut short.")
    try:
        fields = json.loads(data[_START.size : size])
    except (ValueError, RecursionError) as error:
        raise BitstreamError(f"the header is not understood: {error}") from error
    if not isinstance(fields, dict):
        raise BitstreamError(f"the header is a JSON {type(fields).__name__}, not an object: the file is damaged.")
    for key, kind, valid in (
        ("m", str, bool),
        ("al", int, lambda value: value > 0),
        ("nc", int, lambda value: value > 0),
        ("lm", bool, lambda value: True),
    ):
        value = fields.get(key)
        if type(value) is not kind or not valid(value):
            raise BitstreamError(
                f"the header's {key!r} is {str(value)[:40]!r}, which makes no sense: the file is damaged."
            )
    return EcdcHeader(fields["m"], fields["al"], fields["nc"], fields["lm"], size)


def compress(
    model: EncodecCodecModel,
    audio: np.ndarray,
    bandwidth: float | None = None,
    lm: EncodecEntropyLMModel | None = None,
    num_quantizers: int | None = None,
) -> bytes:
    """Audio to the bytes of an `.ecdc` file.

    Args:
        model: the codec; its `config.original_name` goes into the header.
        audio: float `(channels, samples)` in [-1, 1] at the codec's rate.
        bandwidth: rate in kbps, one of `config.bandwidths`; all codebooks by default.
        lm: makes the file smaller and is needed again to read it, on a machine with the same arithmetic.
        num_quantizers: codes per frame, in place of the bandwidth.

    Raises:
        ValueError: the codec is no EnCodec, or has no original name; the language model does not fit; or `audio`,
            `bandwidth` or `num_quantizers` is not what `encode` takes.
        BitstreamError: with this language model the file could not be read back (see `ArithmeticEncoder.overflowed`).
    """
    name = _name(model)
    audio = np.asarray(audio)
    if audio.ndim != 2:
        raise ValueError(f"audio must have shape (channels, samples), got {audio.shape}.")
    with torch.no_grad():
        batch = torch.from_numpy(np.ascontiguousarray(audio))[None].to(model.device)
        encoded = model.encode(batch, bandwidth=bandwidth, num_quantizers=num_quantizers)
    codes = encoded.audio_codes[0].cpu().numpy()
    if lm is not None:
        _check_lm(lm, model, len(codes))
    fields = {"m": name, "al": audio.shape[1], "nc": len(codes), "lm": lm is not None}
    text = json.dumps(fields).encode()
    parts = [_START.pack(MAGIC, VERSION, len(text)), text]
    for index, (start, frames) in enumerate(_segments(model.config, audio.shape[1])):
        if model.config.normalize:
            parts.append(_SCALE.pack(float(encoded.audio_scales[0, index])))
        segment = codes[:, start : start + frames]
        parts.append(_pack(segment, model.config.bits_per_code) if lm is None else _pack_with_lm(segment, lm))
    return b"".join(parts)


def decompress(data: bytes, model: EncodecCodecModel, lm: EncodecEntropyLMModel | None = None) -> np.ndarray:
    """The bytes of an `.ecdc` file to audio, float32 `(channels, samples)` at the codec's rate.

    Args:
        data: the whole file.
        model: the codec that the file names.
        lm: the language model it was written with, if it was; not looked at otherwise.

    Raises:
        BitstreamError: the file is cut short or damaged, was written by another codec, or needs a language model.
        ValueError: the codec is no EnCodec, or has no original name; the language model does not fit.
    """
    header, segments, scales = _decode(data, model, lm)
    places = list(_segments(model.config, header.samples))
    codes = torch.zeros(1, header.num_codebooks, sum(places[-1]), dtype=torch.long)
    mask = torch.zeros(1, codes.shape[-1], dtype=torch.bool)
    for segment, (start, frames) in zip(segments, places, strict=True):
        codes[0, :, start : start + frames] = torch.from_numpy(segment)
        mask[:, start : start + frames] = True
    scales = torch.tensor(scales)[None].to(model.device) if model.config.normalize else None
    with torch.no_grad():
        audio = model.decode(
            codes.to(model.device), audio_scales=scales, codes_mask=mask.to(model.device)
        ).audio_values
    return audio[0, :, : header.samples].float().cpu().numpy()


def decode_codes(
    data: bytes, model: EncodecCodecModel, lm: EncodecEntropyLMModel | None = None
) -> tuple[EcdcHeader, list[np.ndarray]]:
    """The header and each segment's codes, int64 `(codebooks, frames)`; arguments and errors as in `decompress`."""
    return _decode(data, model, lm)[:2]


def _decode(data, model, lm) -> tuple[EcdcHeader, list[np.ndarray], list[float]]:
    header, config = read_header(data), model.config
    name = _name(model)
    if header.model_name != name:
        raise BitstreamError(f"this file was written by {header.model_name[:40]!r}, and the codec given is {name!r}.")
    if header.num_codebooks > config.num_codebooks:
        raise BitstreamError(
            f"this file has {header.num_codebooks} codes per frame, and the codec {config.num_codebooks}."
        )
    if header.uses_lm:
        if lm is None:
            raise BitstreamError("this file was written with a language model: give the same one (lm=..., or --lm).")
        _check_lm(lm, model, header.num_codebooks)
    position, segments, scales = header.size, [], []
    # Nothing is allocated by what the header claims: a segment takes bytes, and where they end, so does this loop.
    for _, frames in _segments(config, header.samples):
        if config.normalize:
            scale, position = _unpack_scale(data, position)
            scales.append(scale)
        if header.uses_lm:
            codes, position = _unpack_with_lm(data, position, lm, header.num_codebooks, frames)
        else:
            codes, position = _unpack(data, position, config, header.num_codebooks, frames)
        segments.append(codes)
    if position != len(data):
        raise BitstreamError(f"{len(data) - position} bytes are left after the last code: the file is damaged.")
    return header, segments, scales


def _name(model) -> str:
    if not isinstance(model, EncodecCodecModel):
        raise ValueError(f".ecdc files are EnCodec's, and this codec is a {type(model).__name__}: use .codes.")
    name = model.config.original_name
    if not name:
        raise ValueError(
            "this codec has no name that could stand in an .ecdc file: set config.original_name (encodec_24khz or "
            "encodec_48khz for the published ones), or use .codes."
        )
    return name


def _check_lm(lm: EncodecEntropyLMModel, model: EncodecCodecModel, codebooks: int) -> None:
    size = model.config.codebook_size
    if lm.config.codebook_size != size or lm.config.num_codebooks < codebooks:
        raise ValueError(
            f"the language model knows {lm.config.num_codebooks} codebooks of {lm.config.codebook_size} entries; "
            f"this file needs {codebooks} of {size}."
        )
    if lm.training:
        raise ValueError("the language model is in training mode, where its probabilities can vary: call lm.eval().")


def _segments(config: EncodecCodecConfig, samples: int) -> Iterator[tuple[int, int]]:
    """Where on the frame axis each segment begins, and its frames."""
    length, stride = config.chunk_length or samples, config.chunk_stride or samples
    for index, start in enumerate(range(0, samples, stride)):
        yield index * -(-length // config.hop_length), -(-min(length, samples - start) // config.hop_length)


def _pack(codes: np.ndarray, bits: int) -> bytes:
    flat = codes.T.reshape(-1, 1)
    return np.packbits((flat >> np.arange(bits)) & 1, bitorder="little").tobytes()


def _unpack(data: bytes, position: int, config, codebooks: int, frames: int) -> tuple[np.ndarray, int]:
    bits = config.bits_per_code
    used = frames * codebooks * bits
    end = position + -(-used // 8)
    if end > len(data):
        raise BitstreamError("the file ends within its codes: it was cut short.")
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8, end - position, position), bitorder="little")
    if unpacked[used:].any():
        raise BitstreamError("the bits after the last code are not zero: the file is damaged.")
    codes = unpacked[:used].reshape(-1, bits) @ (1 << np.arange(bits, dtype=np.int64))
    if codes.max() >= config.codebook_size:
        raise BitstreamError(f"a code of {codes.max()}, where codebooks have {config.codebook_size} entries.")
    return codes.reshape(frames, codebooks).T, end


def _unpack_scale(data: bytes, position: int) -> tuple[float, int]:
    end = position + _SCALE.size
    if end > len(data):
        raise BitstreamError("the file ends before the scale of a segment: it was cut short.")
    (scale,) = _SCALE.unpack_from(data, position)
    if not (math.isfinite(scale) and scale > 0):
        raise BitstreamError(f"the scale of a segment is {scale}, which makes no sense: the file is damaged.")
    return scale, end


class _Predictor:
    """The language model, run one frame at a time over one segment."""

    def __init__(self, lm: EncodecEntropyLMModel, codebooks: int) -> None:
        self._lm = lm
        self._state = None
        self._inputs = torch.zeros(1, codebooks, 1, dtype=torch.long, device=lm.device)

    @torch.no_grad()
    def tables(self) -> Tensor:
        """The tables `(codebooks, symbols)` of the next frame."""
        output = self._lm(self._inputs, self._state, use_cache=True, return_dict=True)
        self._state = output.past_states
        return cumulative_tables(self._lm.probabilities(output.logits)[0, :, 0]).cpu()

    def observe(self, codes: Tensor) -> None:
        """Tell which codes `(codebooks,)` the frame had."""
        self._inputs = 1 + codes[None, :, None].to(self._lm.device)


def _pack_with_lm(codes: np.ndarray, lm: EncodecEntropyLMModel) -> bytes:
    encoder, predictor = ArithmeticEncoder(), _Predictor(lm, len(codes))
    for frame in torch.from_numpy(codes).unbind(1):
        tables = predictor.tables()
        ends = tables.gather(1, frame[:, None])[:, 0]
        starts = tables.gather(1, (frame - 1).clamp(min=0)[:, None])[:, 0].masked_fill(frame == 0, 0)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            encoder.push(start, end)
        predictor.observe(frame)
    data = encoder.finish()
    if encoder.overflowed and not _reads_back(data, codes, lm):
        raise BitstreamError(
            "the language model's float32 probabilities add up to more than 1 here, and the file could not be read "
            "back; the original program writes it all the same. Compress without the language model."
        )
    return data


def _reads_back(data: bytes, codes: np.ndarray, lm: EncodecEntropyLMModel) -> bool:
    try:
        back, end = _unpack_with_lm(data, 0, lm, *codes.shape)
    except BitstreamError:
        return False
    return end == len(data) and np.array_equal(back, codes)


def _unpack_with_lm(
    data: bytes, position: int, lm: EncodecEntropyLMModel, codebooks: int, frames: int
) -> tuple[np.ndarray, int]:
    decoder, predictor = ArithmeticDecoder(data, position), _Predictor(lm, codebooks)
    rows = []
    for _ in range(frames):
        # Indexing a memoryview gives the coder plain integers, and only for the entries it looks at.
        tables = [memoryview(row) for row in predictor.tables().numpy()]
        row = [decoder.pull(table) for table in tables]
        predictor.observe(torch.tensor(row))
        rows.append(row)
    return np.array(rows, np.int64).T, decoder.finish()

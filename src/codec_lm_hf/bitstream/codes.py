"""`.codes`: packed codes of any codec of this package, readable block by block, guarded by checksums.

    magic      4 bytes  b"CLMC"
    version    u8       1
    length     u32      of the header
    header     JSON     codec, fingerprint, rates, codebooks (see `CodesHeader`)
    crc        u32      CRC-32 of everything above
    block*     u32 frames, u16 scales, scales as float32, packed codes, u32 CRC-32 of the block
    end        u32 0, u64 samples, u32 CRC-32 of these 12 bytes

Integers are little-endian. Codes are packed frame by frame, within a frame codebook by codebook, most significant bit
first, in `bits_per_code` bits each; a block is filled up to whole bytes. No block is larger than `MAX_FRAMES` frames,
so reading needs bounded memory whatever a damaged file says.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import BinaryIO

import numpy as np

from ..modeling.codec_base import CodecPreTrainedModel
from ..modeling.quantization import Codebook
from ..pretrained import is_bundled
from .errors import BitstreamError

MAGIC = b"CLMC"
VERSION = 1
MAX_FRAMES = 1 << 16
MAX_HEADER = 1 << 16
# Beyond any codec, and small enough that a hostile header cannot ask for much memory.
_LARGEST = {
    "sampling_rate": 1 << 20,
    "channels": 64,
    "hop_length": 1 << 20,
    "num_codebooks": 64,
    "codebook_size": 1 << 20,
}


@dataclass(frozen=True)
class CodesHeader:
    """What a reader must know before the first code.

    Attributes:
        codec: repository id, or absolute path of the directory, that the codec was loaded from.
        revision: its commit, if it came from the Hub.
        fingerprint: of its codebooks, see `fingerprint`; decoding with other codebooks gives noise.
        sampling_rate: Hz.
        channels: of the audio.
        hop_length: samples per frame.
        num_codebooks: codes per frame in this file.
        codebook_size: a code is smaller than this.
        chunk_length_s, overlap: of the segments in which the codec coded the audio, as in its configuration.

    Raises:
        ValueError: a field of another type, or beyond what any codec has.
    """

    codec: str
    revision: str | None
    fingerprint: str
    sampling_rate: int
    channels: int
    hop_length: int
    num_codebooks: int
    codebook_size: int
    chunk_length_s: float | None = None
    overlap: float | None = None

    def __post_init__(self) -> None:
        for name in ("codec", "fingerprint"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a text, got {getattr(self, name)!r}.")
        if not (self.revision is None or isinstance(self.revision, str)):
            raise ValueError(f"revision must be a text or nothing, got {self.revision!r}.")
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= largest:
                raise ValueError(f"{name} must be an integer in 1..{largest}, got {value!r}.")
        for name, largest in (("chunk_length_s", 86400), ("overlap", 1)):
            value = getattr(self, name)
            if not (value is None or (type(value) in (int, float) and 0 <= value < largest)):
                raise ValueError(f"{name} must be a number from 0 to below {largest}, or nothing, got {value!r}.")

    @property
    def bits_per_code(self) -> int:
        return max(1, (self.codebook_size - 1).bit_length())

    @classmethod
    def of(cls, model: CodecPreTrainedModel, num_codebooks: int | None = None) -> CodesHeader:
        """The header of files that `model` writes with `num_codebooks` codes per frame (all by default)."""
        config = model.config
        name = config._name_or_path or type(model).__name__
        return cls(
            # From elsewhere, a relative path would be another directory's, or a repository's id.
            codec=os.path.abspath(name) if os.path.isdir(name) else name,
            revision=model.commit,
            fingerprint=fingerprint(model),
            sampling_rate=config.sampling_rate,
            channels=config.audio_channels,
            hop_length=config.hop_length,
            num_codebooks=num_codebooks or config.num_codebooks,
            codebook_size=config.codebook_size,
            chunk_length_s=config.chunk_length_s,
            overlap=config.overlap,
        )

    def find_codec(self) -> str:
        """What `AutoCodecModel.from_pretrained` finds the codec by, at `revision`.

        Raises:
            BitstreamError: it is a directory that is not there.
        """
        name = self.codec
        if is_bundled(name) or os.path.exists(name) or (name.count("/") == 1 and not name.startswith((".", "/"))):
            return name
        raise BitstreamError(
            f"the codes are by the codec {name!r}, which is not here; name a copy of it (--codec; in a recipe, codec "
            "in the section processor)."
        )

    def use_segments(self, model: CodecPreTrainedModel) -> None:
        """Let `model` read segments as this file has them; whether it does is an option of most codecs."""
        model.config.chunk_length_s, model.config.overlap = self.chunk_length_s, self.overlap

    def check_codec(self, model: CodecPreTrainedModel) -> None:
        """Refuse a codec other than the one that wrote the file.

        Raises:
            BitstreamError: its rates or its codebooks differ.
        """
        own = CodesHeader.of(model)
        for name in ("sampling_rate", "channels", "hop_length", "codebook_size", "chunk_length_s", "overlap"):
            ours, theirs = getattr(own, name), getattr(self, name)
            if ours != theirs:
                raise BitstreamError(
                    f"this file has {name} {theirs} and {own.codec} has {ours}: decode it with {self.codec}."
                )
        if self.num_codebooks > own.num_codebooks:
            raise BitstreamError(
                f"this file has {self.num_codebooks} codebooks and {own.codec} has {own.num_codebooks}: decode it "
                f"with {self.codec}."
            )
        if own.fingerprint != self.fingerprint:
            raise BitstreamError(
                f"this file was written by {self.codec} (fingerprint {self.fingerprint}), and {own.codec} has other "
                f"codebooks ({own.fingerprint}): decode it with {self.codec}."
            )


def fingerprint(model: CodecPreTrainedModel) -> str:
    """Sixteen hexadecimal digits that name a codec's codebooks."""
    digest = hashlib.sha256()
    for name, module in sorted(model.named_modules()):
        if isinstance(module, Codebook):
            digest.update(name.encode())
            digest.update(module.embed.detach().cpu().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def pack_codes(codes: np.ndarray, bits: int) -> bytes:
    """Codes `(codebooks, frames)` to bytes."""
    flat = codes.T.reshape(-1, 1).astype(np.uint32)
    return np.packbits((flat >> np.arange(bits - 1, -1, -1, dtype=np.uint32)) & 1).tobytes()


def unpack_codes(data: bytes, bits: int, codebooks: int, frames: int) -> np.ndarray:
    """The reverse of `pack_codes`: int64 `(codebooks, frames)`."""
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8), count=codebooks * frames * bits).reshape(-1, bits)
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.int64)
    return (unpacked @ weights).reshape(frames, codebooks).T


class CodesWriter:
    """Writes a `.codes` file block by block.

    Args:
        file: binary, open for writing; need not be seekable.
        header: of the file.
    """

    def __init__(self, file: BinaryIO, header: CodesHeader) -> None:
        self.file = file
        self.header = header
        text = json.dumps(asdict(header)).encode()
        start = MAGIC + struct.pack("<BI", VERSION, len(text)) + text
        file.write(start + struct.pack("<I", zlib.crc32(start)))

    def write(self, codes: np.ndarray, scales: np.ndarray | None = None) -> None:
        """Append codes `(codebooks, frames)` and, for codecs that normalise, the scales of their segments.

        Raises:
            ValueError: codes of another shape, type or range than the header says.
        """
        if codes.ndim != 2 or len(codes) != self.header.num_codebooks:
            raise ValueError(f"codes must have shape ({self.header.num_codebooks}, frames), got {codes.shape}.")
        if not np.issubdtype(codes.dtype, np.integer):
            raise ValueError(f"codes must be integers, got {codes.dtype}.")
        if codes.size and not 0 <= codes.min() <= codes.max() < self.header.codebook_size:
            raise ValueError(
                f"codes must lie in 0..{self.header.codebook_size - 1}, found {codes.min()}..{codes.max()}."
            )
        scales = np.zeros(0, "<f4") if scales is None else np.asarray(scales, "<f4")
        for start in range(0, codes.shape[1], MAX_FRAMES):
            part = codes[:, start : start + MAX_FRAMES]
            block = struct.pack("<IH", part.shape[1], len(scales)) + scales.tobytes()
            block += pack_codes(part, self.header.bits_per_code)
            self.file.write(block + struct.pack("<I", zlib.crc32(block)))
            scales = scales[:0]

    def close(self, samples: int) -> None:
        """End the stream: `samples` per channel is the length of the audio."""
        end = struct.pack("<IQ", 0, samples)
        self.file.write(end + struct.pack("<I", zlib.crc32(end)))


class CodesReader:
    """Reads a `.codes` file block by block; `samples` is known once all blocks have been read.

    Args:
        file: binary, open for reading; need not be seekable.

    Raises:
        BitstreamError: here or while iterating: not such a file, another version, cut short, damaged, or
            with something after its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.samples: int | None = None
        start = self._read(9, "header")
        if start[:4] != MAGIC:
            raise BitstreamError(f"this is no .codes file: it begins with {start[:4]!r}, not {MAGIC!r}.")
        version, length = struct.unpack("<BI", start[4:])
        if version != VERSION:
            raise BitstreamError(
                f"this .codes file has version {version}; this program reads version {VERSION}: update codec-lm-hf."
            )
        if length > MAX_HEADER:
            raise BitstreamError(
                f"the header claims {length} bytes (at most {MAX_HEADER} are allowed): the file is damaged."
            )
        text = self._read(length, "header")
        self._check(start + text, "header")
        try:
            self.header = CodesHeader(**json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise BitstreamError(f"the header is not understood: {error}") from error

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of codes int64 `(codebooks, frames)` and scales float32 `(segments,)`."""
        header = self.header
        while True:
            start = self._read(4, "block")
            (frames,) = struct.unpack("<I", start)
            if frames == 0:
                samples = self._read(8, "end")
                self._check(start + samples, "end")
                if self.file.read(1):
                    raise BitstreamError(
                        "something follows the end of the codes, as where files were joined: decode each by itself."
                    )
                (self.samples,) = struct.unpack("<Q", samples)
                return
            if frames > MAX_FRAMES:
                raise BitstreamError(f"a block claims {frames} frames (at most {MAX_FRAMES}): the file is damaged.")
            count = self._read(2, "block")
            scales = self._read(4 * struct.unpack("<H", count)[0], "block")
            payload = self._read(-(-frames * header.num_codebooks * header.bits_per_code // 8), "block")
            self._check(start + count + scales + payload, "block")
            codes = unpack_codes(payload, header.bits_per_code, header.num_codebooks, frames)
            if codes.max() >= header.codebook_size:
                raise BitstreamError(
                    f"a code of {codes.max()} in a file whose codebooks have {header.codebook_size} entries."
                )
            yield codes, np.frombuffer(scales, "<f4")

    def _read(self, count: int, part: str) -> bytes:
        data = self.file.read(count)
        while len(data) < count:
            more = self.file.read(count - len(data))
            if not more:
                raise BitstreamError(f"the file ends within its {part}: it was cut short.")
            data += more
        return data

    def _check(self, data: bytes, part: str) -> None:
        (stored,) = struct.unpack("<I", self._read(4, part))
        if stored != zlib.crc32(data):
            raise BitstreamError(f"the checksum of the {part} does not match: the file is damaged.")

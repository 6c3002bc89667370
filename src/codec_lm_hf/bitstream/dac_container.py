"""The container of `.dac` files: a numpy file that holds one pickled dict.

    codes     uint16 (channels, codebooks, frames)
    metadata  input_db: loudness of the input, chunk_length: frames of a window, original_length: samples per channel,
              sample_rate and channels of the input, padding: whether the convolutions padded, dac_version

(`DACFile` in `dac/model/base.py`) The pickle is read by an unpickler that makes nothing but plain values and
descriptions of arrays of numbers.
"""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import dataclass

import numpy as np

from .errors import BitstreamError

MAGIC = b"\x93NUMPY"
VERSION = "1.0.0"

_NPY_VERSION = (1, 0)
_LARGEST_NUMBER = 1 << 40
_NUMBERS = ("<u2", "<i2", "<i4", "<i8", "<f4", "<f8")


@dataclass(frozen=True)
class DacFile:
    """What a `.dac` file holds.

    Attributes:
        codes: `(channels, codebooks, frames)` int64, windows side by side.
        chunk_length: frames of a window.
        original_length: samples per channel, at `sampling_rate`.
        sampling_rate: Hz of the input; the codec's own may be another.
        input_db: loudness of the input, in LUFS.
        padding: one window, with padding; otherwise windows without.
    """

    codes: np.ndarray
    chunk_length: int
    original_length: int
    sampling_rate: int
    input_db: float
    padding: bool


def write(file: DacFile) -> bytes:
    """The bytes of a file, as the original writes them."""
    metadata = {
        "input_db": np.array([file.input_db], np.float32),
        "original_length": file.original_length,
        "sample_rate": file.sampling_rate,
        "chunk_length": file.chunk_length,
        "channels": len(file.codes),
        "padding": file.padding,
        "dac_version": VERSION,
    }
    stream = io.BytesIO()
    np.save(stream, np.array({"codes": file.codes.astype(np.uint16), "metadata": metadata}, dtype=object))
    return stream.getvalue()


def read(data: bytes) -> DacFile:
    """What a file holds; nothing in it is executed.

    Raises:
        BitstreamError: no such file, cut short, damaged, of another version, or with more in it than DAC writes.
    """
    content = _unpickle(data)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    if not isinstance(metadata, dict):
        raise BitstreamError("this numpy file holds no dict of codes and metadata: it is no .dac file.")
    version = metadata.get("dac_version")
    if version != VERSION:
        shown = repr(version[:20]) if isinstance(version, str) else f"a {type(version).__name__}"
        raise BitstreamError(f"this .dac file has version {shown}; this program reads version {VERSION!r}.")
    codes, levels = _array(content.get("codes"), "codes"), _array(metadata.get("input_db"), "input_db")
    if codes.dtype.kind not in "iu" or codes.ndim != 3 or codes.size == 0 or codes.min() < 0:
        raise BitstreamError(f"codes are a {codes.dtype} array of shape {codes.shape}: the file is damaged.")
    numbers = {name: metadata.get(name) for name in ("original_length", "sample_rate", "chunk_length", "channels")}
    for name, value in numbers.items():
        if type(value) is not int or not 0 < value < _LARGEST_NUMBER:
            raise BitstreamError(f"{name} is no positive number that makes sense: the file is damaged.")
    if numbers["channels"] != len(codes) or levels.size != 1:
        raise BitstreamError(
            f"the file holds {len(codes)} signals of {numbers['channels']} channels with {levels.size} loudnesses; "
            "only files of one recording are read."
        )
    loudness = float(levels.reshape(()))
    if not math.isfinite(loudness) or type(metadata.get("padding")) is not bool:
        raise BitstreamError("input_db or padding make no sense: the file is damaged.")
    return DacFile(
        codes.astype(np.int64),
        numbers["chunk_length"],
        numbers["original_length"],
        numbers["sample_rate"],
        loudness,
        metadata["padding"],
    )


class _Described:
    """Stands for an object of numpy's: numpy's own way of restoring one trusts what it reads, down to addresses."""

    state: object = None

    def __init__(self, *arguments) -> None:
        self.arguments = arguments

    def __setstate__(self, state) -> None:
        self.state = state


class _Array(_Described):
    pass


class _Type(_Described):
    pass


_KNOWN = {
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Described,
    ("numpy", "dtype"): _Type,
}


class _Unpickler(pickle.Unpickler):
    """Makes plain values, and descriptions of numpy's arrays."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module[:40]}.{name[:40]}")
        return _KNOWN[module, name]


def _unpickle(data: bytes):
    """The object in a numpy file that holds one object; its arrays are descriptions.

    Raises:
        BitstreamError: it is none, is cut short, or asks for anything but arrays.
    """
    stream = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(stream) != _NPY_VERSION:
            raise ValueError("another version of the format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:
        # The header is a Python literal, and numpy lets through whatever its parser raises.
        raise BitstreamError(
            f"this is no .dac file: a numpy file's header is missing or damaged ({error})."
        ) from error
    if shape != () or not dtype.hasobject:
        raise BitstreamError("this numpy file holds an array and not a dict: it is no .dac file.")
    try:
        (content,) = _Unpickler(stream).load().state[4]
    except pickle.UnpicklingError as error:
        raise BitstreamError(f"the file is damaged, or holds what no .dac file does: {error}.") from error
    except Exception as error:
        # A damaged stream can make an unpickler stumble in any way: all of them mean the same here.
        raise BitstreamError(f"the file is damaged or cut short ({type(error).__name__}).") from error
    return content


def _array(described, name: str) -> np.ndarray:
    """The array that a description describes, if it is one of numbers."""
    try:
        _, shape, kind, by_column, values = described.state
        dtype = kind.state[1] + kind.arguments[0]
        if dtype not in _NUMBERS or type(values) is not bytes:
            raise ValueError
        return np.frombuffer(values, dtype).reshape(shape, order="F" if by_column else "C")
    except (AttributeError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise BitstreamError(f"{name} is no array of numbers: the file is damaged.") from error

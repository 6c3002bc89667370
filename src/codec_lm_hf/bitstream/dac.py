"""`.dac`, the files of DAC's own program: a numpy file that holds one pickled dict.

    codes     uint16 (channels, codebooks, frames)
    metadata  input_db: loudness of the input, chunk_length: frames of a window, original_length: samples per channel,
              sample_rate and channels of the input, padding: whether the convolutions padded, dac_version

Channels are coded one by one, as so many mono signals at the codec's rate, all of them set to one loudness before and
to the input's after. What is longer than a window is coded window by window without any padding, so that the decoded
windows stand side by side and no seam is heard. (`dac/model/base.py`)

The pickle is read by an unpickler that makes nothing but plain values and arrays of numbers.
"""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling.dac import DacCodecModel
from ..modeling.layers.conv import OverlapAdd, SlidingWindow
from ..modeling.layers.streaming import Unpadded
from ..processing.loudness import integrated_loudness
from .errors import BitstreamError

MAGIC = b"\x93NUMPY"
VERSION = "1.0.0"
WINDOW_SECONDS = 1.0
NORMALIZED_DB = -16.0

_NPY_VERSION = (1, 0)
# Values of the filter by which julius converts between two rates; only rates that have little in common need more.
_LARGEST_FILTER = 1 << 26
_ZEROS = 24
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


# --- audio to files and back ---------------------------------------------------------------------------------------


def compress(
    model: DacCodecModel,
    audio: np.ndarray,
    num_quantizers: int | None = None,
    bandwidth: float | None = None,
    sampling_rate: int | None = None,
    window_seconds: float | None = WINDOW_SECONDS,
    normalize_db: float | None = NORMALIZED_DB,
) -> bytes:
    """Audio to the bytes of a `.dac` file.

    Args:
        model: the codec, in eval mode.
        audio: float `(channels, samples)` in [-1, 1].
        num_quantizers, bandwidth: as in `CodecPreTrainedModel.encode`.
        sampling_rate: Hz of `audio`; the codec's own if not given. Another one takes julius (the extra `dac`).
        window_seconds: longer audio is coded in windows of this length; `None`: all at once, whatever its length. The
            original's program takes 5, its Python function 1.
        normalize_db: loudness in LUFS that is coded; `None` leaves it as it is. The file holds the input's.

    Raises:
        ValueError: the codec is no DAC; `audio` is no float audio; a window too short for the codec; a number of
            quantizers or a bandwidth that the codec does not have; a rate that cannot be converted.
    """
    _check_codec(model)
    count = model._count(num_quantizers, bandwidth)
    rate = model.config.sampling_rate
    given = rate if sampling_rate is None else sampling_rate
    original = np.asarray(audio)
    if original.ndim != 2 or original.size == 0:
        raise ValueError(f"audio must have shape (channels, samples) and hold samples, got {original.shape}.")
    values = torch.from_numpy(np.ascontiguousarray(original))
    model._check_samples(values)
    values = _resample(values.float(), given, rate)
    loudness = integrated_loudness(values.numpy(), rate)
    if normalize_db is not None:
        values = values * 10 ** ((normalize_db - loudness) / 20)
    values = values / values.abs().amax(-1, keepdim=True).clamp(min=1)
    rows = values[:, None].to(model.device, model.dtype)
    padding = window_seconds is None or rows.shape[-1] <= window_seconds * rate
    with torch.no_grad():
        if padding:
            codes = [model.encode(rows, num_quantizers=count).audio_codes]
        else:
            codes = [_encode_window(model, window, count) for window in _windows(model, rows, window_seconds)]
    joined = torch.cat(codes, dim=-1).cpu().numpy()
    return write(DacFile(joined, codes[0].shape[-1], original.shape[1], given, loudness, padding))


def decompress(data: bytes, model: DacCodecModel) -> np.ndarray:
    """The bytes of a `.dac` file to float32 audio `(channels, samples)` at the file's rate (see `read`).

    Args:
        data: the whole file.
        model: the codec it was written with, in eval mode.

    Raises:
        BitstreamError: the file is cut short or damaged, of another version, or not for this codec.
        ValueError: the codec is no DAC, or the file's rate cannot be converted to.
    """
    _check_codec(model)
    file, config = read(data), model.config
    if file.codes.shape[1] > config.num_codebooks:
        raise BitstreamError(f"this file has {file.codes.shape[1]} codebooks, and the codec {config.num_codebooks}.")
    if file.codes.max() >= config.codebook_size:
        raise BitstreamError(f"a code of {file.codes.max()}, where codebooks have {config.codebook_size} entries.")
    _check_lengths(file, model)
    codes = torch.from_numpy(file.codes).to(model.device)
    with torch.no_grad():
        if file.padding:
            audio = model.decode(codes).audio_values
        else:
            time = Unpadded()
            windows = codes.split(file.chunk_length, dim=-1)
            audio = torch.cat([model._decode_latents(model._dequantize(window), time) for window in windows], dim=-1)
    audio = audio[:, 0].float().cpu()
    loudness = torch.tensor([integrated_loudness(row[None].numpy(), config.sampling_rate) for row in audio])
    audio = audio * 10 ** ((file.input_db - loudness[:, None]) / 20)
    audio = _resample(audio, config.sampling_rate, file.sampling_rate)
    missing = max(0, file.original_length - audio.shape[-1])
    return F.pad(audio, (0, missing))[:, : file.original_length].numpy()


def _check_codec(model) -> None:
    if not isinstance(model, DacCodecModel):
        raise ValueError(f".dac files are DAC's, and this codec is a {type(model).__name__}: use .codes.")


def _check_lengths(file: DacFile, model: DacCodecModel) -> None:
    """The file states a length that its codes decode to; of padded ones a frame may be missing."""
    rate, hop = model.config.sampling_rate, model.config.hop_length
    if file.padding:
        samples = file.codes.shape[-1] * hop
    else:
        frames, size = file.codes.shape[-1], file.chunk_length
        samples = _run_through(_convolutions(model.decoder), size)
        if frames % size or samples < 1:
            raise BitstreamError(f"{frames} frames in windows of {size} make no audio here: the file is damaged.")
        samples *= frames // size
    if file.original_length > math.ceil((samples + hop) * file.sampling_rate / rate):
        raise BitstreamError(
            f"the file claims {file.original_length} samples, and its codes are {samples} at {rate} Hz: it is damaged."
        )


def _resample(audio: Tensor, rate: int, wanted: int) -> Tensor:
    """Convert `audio` `(channels, samples)` to another rate by the original's filter.

    Raises:
        ValueError: julius is not installed, or the rates have too little in common.
    """
    if rate == wanted:
        return audio
    common = math.gcd(rate, wanted)
    if min(rate, wanted) < 1 or (wanted // common) * (rate // common + 4 * _ZEROS) > _LARGEST_FILTER:
        raise ValueError(f"audio of {rate} Hz cannot be converted to {wanted} Hz here; resample it first (soxr).")
    try:
        from julius import resample_frac
    except ImportError as error:
        raise ValueError(
            f"between {rate} Hz and the codec's rate .dac files are resampled by julius, which is not installed: "
            "pip install 'codec-lm-hf[dac]'."
        ) from error
    return resample_frac(audio, rate // common, wanted // common, zeros=_ZEROS, rolloff=0.945)


# --- windows without padding ---------------------------------------------------------------------------------------


def _convolutions(part: torch.nn.Module) -> list[SlidingWindow | OverlapAdd]:
    """The convolutions of an encoder or decoder, which are registered in the order in which they run."""
    return [module for module in part.modules() if isinstance(module, (SlidingWindow, OverlapAdd))]


def _run_through(convolutions: list, steps: int) -> int:
    """Steps that come out, without padding, where `steps` go in; not positive where nothing does."""
    for conv in convolutions:
        if isinstance(conv, SlidingWindow):
            steps = (steps - conv.kernel_size) // conv.stride + 1
        else:
            steps = steps * conv.stride + conv.excess
    return steps


def delay(model: DacCodecModel) -> int:
    """Samples by which audio shortens at either end on its way through encoder and decoder without padding."""
    convolutions = _convolutions(model.encoder) + _convolutions(model.decoder)
    outputs = inputs = _run_through(convolutions, 0)
    for conv in reversed(convolutions):
        if isinstance(conv, SlidingWindow):
            inputs = (inputs - 1) * conv.stride + conv.kernel_size
        else:
            inputs = -(-(inputs - conv.excess) // conv.stride)
    return (inputs - outputs) // 2


def _windows(model: DacCodecModel, rows: Tensor, seconds: float):
    """Overlapping windows of `rows` `(channels, 1, samples)`, the last one filled up with zeros.

    Raises:
        ValueError: so short a window would leave nothing.
    """
    hop, rate = model.config.hop_length, model.config.sampling_rate
    size = -(-int(seconds * rate) // hop) * hop
    advance = _run_through(_convolutions(model.encoder) + _convolutions(model.decoder), size)
    reach = delay(model)
    if advance < 1:
        raise ValueError(
            f"a window of {seconds} s leaves nothing, as this codec looks {reach} samples to either side: give more "
            f"than {2 * reach / rate:.2f} s."
        )
    padded = F.pad(rows, (reach, reach))
    for start in range(0, rows.shape[-1], advance):
        window = padded[..., start : start + size]
        yield F.pad(window, (0, size - window.shape[-1]))


def _encode_window(model: DacCodecModel, window: Tensor, count: int) -> Tensor:
    return model.quantizer.encode(model._encode_latents(window, Unpadded()), count)


# --- the container -------------------------------------------------------------------------------------------------


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
            f"the file holds {len(codes)} signals of {numbers['channels']} channels with {levels.size} loudnesses; only "
            "files of one recording are read."
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
        # A class of its own, since a pickle may also set attributes of what it asked for.
        return type(name, (_KNOWN[module, name],), {})


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
        raise BitstreamError(f"this is no .dac file: a numpy file's header is missing or damaged ({error}).") from error
    if shape != () or dtype != object:
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

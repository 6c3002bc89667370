"""`.dac`, the files of DAC's own program (`dac/model/base.py`); `dac_container` says what stands in them.

Channels are coded one by one, as so many mono signals at the codec's rate, all of them set to one loudness before and
to the input's after. What is longer than a window is coded window by window without any padding, so that the decoded
windows stand side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling.dac import DacCodecModel
from ..modeling.layers.conv import OverlapAdd, SlidingWindow
from ..modeling.layers.streaming import Unpadded
from ..processing.loudness import integrated_loudness
from .dac_container import DacFile, read, write
from .errors import BitstreamError

WINDOW_SECONDS = 1.0
NORMALIZED_DB = -16.0

# Values of the filter by which julius converts between two rates; only rates that have little in common need more.
_LARGEST_FILTER = 1 << 26
_ZEROS = 24


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
    rows = values[:, None].to(model.device)
    padding = window_seconds is None or rows.shape[-1] / rate <= window_seconds
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


def _windows(model: DacCodecModel, rows: Tensor, seconds: float) -> Iterator[Tensor]:
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
    return model._make_codes(window, Unpadded(), count)

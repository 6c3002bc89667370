"""Audio files in and out, by soundfile and soxr."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from .files import appearing

if TYPE_CHECKING:
    import soundfile

# Suffix -> libsndfile's names of the container and of what is written into it.
_FORMATS = {
    ".flac": ("FLAC", "PCM_16"),
    ".wav": ("WAV", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".oga": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".aifc": ("AIFF", "PCM_16"),
    ".au": ("AU", "PCM_16"),
    ".caf": ("CAF", "PCM_16"),
    ".w64": ("W64", "PCM_16"),
    ".rf64": ("RF64", "PCM_16"),
}
EXTENSIONS = tuple(_FORMATS)
# Samples written at once: libsndfile puts a block for Vorbis onto the stack, where minutes of audio have no room.
_WRITTEN_AT_ONCE = 1 << 16
# What libsndfile calls the length of a file whose header leaves it open.
_UNKNOWN_LENGTH = (1 << 63) - 1


class AudioFileError(ValueError):
    """A file that should be audio is not, or holds no samples."""


def load_audio(
    path: str | os.PathLike | BinaryIO,
    sampling_rate: int | None = None,
    channels: int | None = None,
    name: str | None = None,
) -> tuple[np.ndarray, int]:
    """Read an audio file.

    Args:
        path: file (name or open in binary mode) of any format that libsndfile reads: wav, flac, ogg, opus, mp3, ...
        sampling_rate: convert to this rate in Hz; the file's own if `None`.
        channels: 1 averages the file's channels; 2 repeats a mono file's channel; the file's own if `None`.
        name: of the file in messages.

    Returns:
        float32 array `(channels, samples)` and its rate in Hz.

    Raises:
        AudioFileError: no such file, not audio, without a sample at that rate, or more than two channels where two are
            wanted.
    """
    name = name or str(path)
    with open_audio(path, name) as file:
        audio, rate = file.read(dtype="float32", always_2d=True).T, file.samplerate
    audio, rate = to_format(audio, rate, sampling_rate, channels, name)
    if not audio.shape[1]:
        raise no_samples(name, rate)
    return audio, rate


@contextmanager
def open_audio(source: str | os.PathLike | BinaryIO, name: str) -> Iterator[soundfile.SoundFile]:
    """An audio file, open for reading; `name` is what messages call it.

    Raises:
        AudioFileError: here or while it is read: no such file, not audio, damaged, empty, or of unknown length.
    """
    import soundfile

    if isinstance(source, (str, os.PathLike)) and not os.path.exists(source):
        raise AudioFileError(f"there is no file {name}.")
    try:
        with soundfile.SoundFile(source) as file:
            if file.frames == 0:
                raise AudioFileError(f"{name} holds no samples; leave it out.")
            if file.frames == _UNKNOWN_LENGTH:
                raise AudioFileError(
                    f"{name} does not say how long it is, as {file.format} files from a pipe do not: write it into a "
                    "file again, or send WAV through the pipe."
                )
            yield file
    except (soundfile.LibsndfileError, OSError) as error:
        # Without the object that soundfile calls an open file by.
        raise AudioFileError(f"{name} cannot be read as audio: {getattr(error, 'error_string', error)}") from error


def read_blocks(file: soundfile.SoundFile, samples: int) -> Iterator[np.ndarray]:
    """The rest of an open file in float32 blocks `(channels, samples)`, the last one shorter.

    `SoundFile.blocks` trusts the header: of a file that was cut short it gives as many blocks as there should be, with
    what happens to be in memory in them.

    soundfile seeks before each block, after which an MP3 decoder lacks what frames before the block hold of its first
    ones: these are read again.
    """
    again = file.samplerate if file.format == "MP3" else 0
    place = file.tell()
    while True:
        before = min(place, again)
        if before:
            file.seek(place - before)
        block = file.read(before + samples, dtype="float32", always_2d=True)[before:]
        if not len(block):
            return
        yield block.T
        place += len(block)


def no_samples(name: str, rate: int) -> AudioFileError:
    """What to raise where nothing of a file is left, perhaps only at another rate."""
    return AudioFileError(f"{name} holds no samples at {rate:g} Hz; leave it out.")


def to_format(
    audio: np.ndarray, rate: int, sampling_rate: int | None, channels: int | None, name: str = "the audio"
) -> tuple[np.ndarray, int]:
    """Change channels and rate of `audio` `(channels, samples)`; see `load_audio`."""
    import soxr

    if channels == 1 and len(audio) > 1:
        audio = audio.mean(0, keepdims=True)
    elif channels == 2 and len(audio) == 1:
        audio = np.repeat(audio, 2, axis=0)
    elif channels is not None and len(audio) != channels:
        raise AudioFileError(f"{name} has {len(audio)} channels; expected {channels}. Mix it down first.")
    if sampling_rate is not None and rate != sampling_rate:
        audio = soxr.resample(audio.T, rate, sampling_rate).T
        rate = sampling_rate
    return np.ascontiguousarray(audio, dtype=np.float32), rate


def file_format(suffix: str) -> tuple[str, str]:
    """What libsndfile calls the container and its content for a suffix: 16-bit samples, or the format's own.

    Raises:
        AudioFileError: no format has this suffix.
    """
    if suffix.lower() not in _FORMATS:
        raise AudioFileError(f"unknown audio format {suffix!r}; choose one of {', '.join(EXTENSIONS)}.")
    return _FORMATS[suffix.lower()]


def write_block(file: soundfile.SoundFile, audio: np.ndarray) -> None:
    """Append `audio` `(channels, samples)`, clipped to [-1, 1], to an open file, whatever its length."""
    for start in range(0, audio.shape[1], _WRITTEN_AT_ONCE):
        file.write(np.clip(audio[:, start : start + _WRITTEN_AT_ONCE], -1, 1).T)


def save_audio(path: str | os.PathLike, audio: np.ndarray, sampling_rate: int) -> None:
    """Write `audio` `(channels, samples)`, clipped to [-1, 1], as 16-bit samples; the suffix chooses the format.

    The file appears whole or not at all.

    Raises:
        AudioFileError: it cannot be written: an unknown suffix, a rate that the format does not have, no such folder.
    """
    import soundfile

    path = Path(path)
    container, subtype = file_format(path.suffix)
    try:
        with (
            appearing(path) as sink,
            soundfile.SoundFile(sink, "w", sampling_rate, len(audio), subtype, format=container) as file,
        ):
            write_block(file, audio)
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioFileError(f"{path} cannot be written: {getattr(error, 'error_string', error)}") from error


def audio_files(folder: str | os.PathLike) -> list[Path]:
    """Audio files below `folder`, sorted; see `files_below`."""
    return files_below(folder, EXTENSIONS)


def files_below(folder: str | os.PathLike, suffixes: Sequence[str]) -> list[Path]:
    """Files below `folder` that end so, in upper or lower case, sorted.

    What is hidden is passed over, as by `datasets`: files half written, and what macOS lays beside others (`._a.wav`).
    Links to folders are followed, but for those to a folder on the way to them. A link to nothing counts, so that it
    is missed, and what is no file, as a pipe, does not.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = [name for name in folders if not (name.startswith(".") or _leads_back(here / name))]
        paths = [here / name for name in names if not name.startswith(".") and Path(name).suffix.lower() in suffixes]
        found += [path for path in paths if path.is_file() or not path.exists()]
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it is in."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.parents)

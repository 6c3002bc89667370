"""`codec-lm encode`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

# Of codecs that look at the whole signal: long enough for their statistics to settle, overlapping by 0.3 seconds.
SEGMENT_SECONDS = 30.0
# Of codecs of which a layer holds all frames, 2.5 MB a second (docs/speechtokenizer.md): seldom cut, under a gigabyte.
WAITING_SECONDS = 300.0
_OVERLAP = 0.01


def encode(
    source: Annotated[Path, typer.Argument(help="Audio file, folder of audio files, or - for standard input.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH", help="File, folder, or - for standard output.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="Directory or repository id; the bundled codec by default.")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Rate in kbps; the codec's highest by default.")] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="codes, ecdc, lyra or dac; by the output's suffix.")
    ] = None,
    lm: Annotated[
        str | None, typer.Option(help="EnCodec's entropy model, for smaller .ecdc files: directory or repository id.")
    ] = None,
    segment_seconds: Annotated[
        float | None,
        typer.Option(
            help="Code .codes files in overlapping segments of this length, each by itself; by default "
            f"{SEGMENT_SECONDS:g} or {WAITING_SECONDS:g} for codecs that look at the whole signal (`codec-lm info` "
            "says so), others as one signal.",
        ),
    ] = None,
) -> None:
    """Turn audio into codes. Audio of another rate or number of channels is converted (.dac files keep both).

    Example: codec-lm encode speech.wav -o speech.codes
    """
    from ..processing.audio import audio_files
    from .common import SUFFIXES, load_codec, load_entropy_lm, pairs, run_over

    suffix = f".{file_format}" if file_format else ".codes"
    if output and Path(output).suffix and not file_format and not source.is_dir():
        suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"unknown format {suffix!r}; choose .codes, .ecdc, .lyra or .dac (--format codes).")
    if lm is not None and suffix != ".ecdc":
        raise ValueError(f"--lm makes .ecdc files smaller and does nothing for {suffix} files: leave it out.")
    found = audio_files(source) if source.is_dir() else []
    model = load_codec(codec)
    if suffix == ".codes":
        use_segments(model, segment_seconds)
    elif segment_seconds is not None:
        raise ValueError(f"--segment-seconds is for .codes files and does nothing for {suffix} files: leave it out.")
    entropy_lm = None if lm is None else load_entropy_lm(lm)
    count = model.config.num_quantizers_for(bandwidth) if bandwidth is not None else model.config.num_codebooks
    todo = pairs(source, output, found, suffix)
    run_over(source, todo, lambda path, file, _: write_encoded(path, file, model, count, suffix, entropy_lm))


def use_segments(model, seconds: float | None) -> None:
    """Let `model` code segments of `seconds`; by default only where memory would grow with the signal otherwise.

    Raises:
        ValueError: less than a second or more than a day; the codec can do it exactly, or has segments of its own.
    """
    if seconds is not None and not 1 <= seconds < 86400:
        raise ValueError(f"--segment-seconds {seconds:g}: give a number from 1 to below 86400, or leave it out.")
    if seconds is not None and (model.streamable or model.config.chunk_length is not None):
        raise ValueError(
            f"--segment-seconds {seconds:g}: this codec needs none, it "
            + ("streams with the same result" if model.streamable else "has segments of its own")
            + "; leave it out."
        )
    seconds = segment_seconds_of(model) if seconds is None else seconds
    if seconds is not None:
        model.config.chunk_length_s, model.config.overlap = seconds, _OVERLAP


def segment_seconds_of(model) -> float | None:
    """Length of the segments in which this command codes long audio by itself, if the codec has none of its own."""
    if model.config.chunk_length is not None:
        return None
    if not model.tileable:
        return SEGMENT_SECONDS
    return WAITING_SECONDS if model.holds_all_frames else None


def write_encoded(path: Path, file: BinaryIO, model, count: int, suffix: str, lm=None) -> None:
    """Encode one audio file into an open file, in the format that `suffix` names."""
    from .common import input_file

    if suffix == ".codes":
        with input_file(path) as source:
            write_codes(source, path, file, model, count)
    else:
        with input_file(path) as source:
            write_foreign(source, path, file, model, count, suffix, lm)


def write_codes(source: BinaryIO, path: Path, file: BinaryIO, model, count: int) -> None:
    """Encode an open audio file to `.codes`, block by block; `path` names it in errors."""
    from ..bitstream.codes import CodesHeader, CodesWriter
    from ..bitstream.stream import encode_blocks

    writer = CodesWriter(file, CodesHeader.of(model, count))
    samples = 0

    def counted() -> Iterator:
        nonlocal samples
        for block in audio_blocks(source, path, model.config):
            samples += block.shape[1]
            yield block

    for codes, scales in encode_blocks(model, counted(), count):
        writer.write(codes, scales)
    writer.close(samples)


def write_foreign(source: BinaryIO, path: Path, file: BinaryIO, model, count: int, suffix: str, lm=None) -> None:
    """Encode an open audio file, whole, in another project's format."""
    from ..processing.audio import load_audio

    if suffix == ".dac":
        from ..bitstream.dac import compress

        audio, rate = load_audio(source, name=str(path))
        # As long a window as the original's program takes.
        file.write(compress(model, audio, count, sampling_rate=rate, window_seconds=5.0))
        return
    audio, _ = load_audio(source, model.config.sampling_rate, model.config.audio_channels, str(path))
    if suffix == ".ecdc":
        from ..bitstream.ecdc import compress

        file.write(compress(model, audio, num_quantizers=count, lm=lm))
    else:
        from ..bitstream.lyra import compress

        file.write(compress(model, audio, count))


def audio_blocks(source: BinaryIO, path: Path, config) -> Iterator:
    """An audio file in blocks of ten seconds at the codec's rate and channels, with a progress bar where it is long.

    Raises:
        AudioFileError: not audio, damaged, or without a sample.
    """
    import numpy as np
    import soxr
    from tqdm.auto import tqdm

    from ..processing.audio import no_samples, open_audio, read_blocks, to_format

    channels, samples = config.audio_channels, 0
    with open_audio(source, str(path)) as file:
        rate = file.samplerate
        resampler = None
        if rate != config.sampling_rate:
            resampler = soxr.ResampleStream(rate, config.sampling_rate, channels, "float32")
        with tqdm(total=file.frames, unit="sample", unit_scale=True, disable=file.frames < 60 * rate) as bar:
            for block in read_blocks(file, 10 * rate):
                bar.update(block.shape[1])
                audio, _ = to_format(block, rate, None, channels, str(path))
                if resampler is not None:
                    audio = resampler.resample_chunk(audio.T).T
                if audio.shape[1]:
                    samples += audio.shape[1]
                    yield audio
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True).T
        if rest.shape[1]:
            samples += rest.shape[1]
            yield rest
    if not samples:
        raise no_samples(str(path), config.sampling_rate)

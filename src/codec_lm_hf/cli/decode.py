"""`codec-lm decode`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from .common import SUFFIXES


def decode(
    source: Annotated[
        Path, typer.Argument(help=".codes, .ecdc, .lyra or .dac file, a folder of them, or - for standard input.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Audio file, folder, or -; by default .wav beside the codes, never over one.",
        ),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="Directory or repository id; by default the codec that the file names.")
    ] = None,
    lm: Annotated[
        str | None, typer.Option(help="The entropy model that .ecdc files were written with, if any.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="Rate in kbps that .lyra files were written with; the files do not hold it.")
    ] = None,
) -> None:
    """Turn codes back into audio.

    Example: codec-lm decode speech.codes -o back.wav
    """
    from ..processing.audio import file_format, files_below
    from .common import input_file, pairs, run_over

    found = files_below(source, SUFFIXES) if source.is_dir() else []
    todo = pairs(source, output, found, ".wav")
    for _, target in todo:
        file_format(target.suffix or ".wav")  # one that is unknown is refused before the work, not after it
    there = [target for _, target in todo if output is None and target.exists()]
    if there:
        # Most likely the recording that the codes were made from.
        raise FileExistsError(f"{there[0]} is there already and is not replaced unasked; say where to write with -o.")
    models: dict = {}

    def write(path: Path, file: BinaryIO, suffix: str) -> None:
        with input_file(path) as data:
            write_decoded(path, data, file, suffix or ".wav", codec, models, lm, bandwidth)

    run_over(source, todo, write)


def write_decoded(
    path: Path,
    data: BinaryIO,
    file: BinaryIO,
    suffix: str,
    codec: str | None,
    models: dict,
    lm: str | None = None,
    bandwidth: float | None = None,
) -> None:
    """Decode one open file into an open audio file."""
    kind = path.suffix.lower() if path.suffix.lower() in SUFFIXES else _kind(data)
    if kind == ".codes":
        write_from_codes(data, file, suffix, codec, models)
        return
    if codec is None:
        raise ValueError("this file does not say which weights decode it; name them with --codec.")
    model = _codec(codec, models)
    rate, channels = model.config.sampling_rate, model.config.audio_channels
    if kind == ".dac":
        from ..bitstream.dac import decompress
        from ..bitstream.dac_container import read

        content = data.read()
        audio = decompress(content, model)
        rate, channels = read(content).sampling_rate, len(audio)
    elif kind == ".ecdc":
        from ..bitstream.ecdc import decompress

        audio = decompress(data.read(), model, None if lm is None else _entropy_lm(lm, models))
    else:
        from ..bitstream.lyra import decompress, to_pcm16

        # These steps survive being written as 16-bit audio: the file is the original's, not one that was rounded.
        audio = to_pcm16(decompress(data.read(), model, bandwidth=bandwidth)).astype("float32") / 32768
    write_audio(file, [audio], rate, channels, suffix)


def write_from_codes(data: BinaryIO, file: BinaryIO, suffix: str, codec: str | None, models: dict) -> None:
    """Decode an open `.codes` file block by block, by the codec that it names if `codec` is `None`."""
    from ..bitstream.codes import CodesReader
    from ..bitstream.stream import decode_blocks, trimmed

    reader = CodesReader(data)
    header = reader.header
    model = _codec(codec, models) if codec else _codec(header.find_codec(), models, header.revision)
    header.use_segments(model)
    header.check_codec(model)
    blocks = trimmed(decode_blocks(model, _shown(reader, data), lambda: reader.samples), reader)
    write_audio(file, blocks, model.config.sampling_rate, model.config.audio_channels, suffix)


def _shown(reader, data: BinaryIO) -> Iterator:
    """The blocks of a file, with a progress bar where there are minutes of audio in it."""
    import os

    from tqdm.auto import tqdm

    header = reader.header
    size = os.fstat(data.fileno()).st_size
    per_second = header.num_codebooks * header.bits_per_code / 8 * header.sampling_rate / header.hop_length
    with tqdm(total=size, unit="B", unit_scale=True, disable=size < 60 * per_second) as bar:
        for block in reader:
            bar.update(data.tell() - bar.n)
            yield block


def _kind(data: BinaryIO) -> str:
    """The format of what comes without a suffix, by its first bytes."""
    start = data.read(4)
    data.seek(0)
    return {b"ECDC": ".ecdc", b"\x93NUM": ".dac"}.get(start, ".codes")


def _entropy_lm(name: str, models: dict):
    from .common import load_entropy_lm

    if ("lm", name) not in models:
        models["lm", name] = load_entropy_lm(name)
    return models["lm", name]


def _codec(name: str, models: dict, revision: str | None = None):
    from .common import load_codec

    if (name, revision) not in models:
        models[name, revision] = load_codec(name, revision)
    return models[name, revision]


def write_audio(file: BinaryIO, blocks, rate: int, channels: int, suffix: str) -> None:
    """Write blocks `(channels, samples)` as 16-bit audio; into a pipe by a temporary file, since headers come last."""
    import shutil
    import tempfile

    import soundfile

    from ..processing.audio import AudioFileError, file_format, write_block

    container, subtype = file_format(suffix)
    if not file.seekable():
        with tempfile.TemporaryFile() as spool:
            write_audio(spool, blocks, rate, channels, suffix)
            spool.seek(0)
            shutil.copyfileobj(spool, file)
        return
    try:
        with soundfile.SoundFile(file, "w", rate, channels, subtype, format=container) as sink:
            for block in blocks:
                write_block(sink, block)
    except soundfile.LibsndfileError as error:
        raise AudioFileError(f"the audio cannot be written as {suffix[1:]}: {error}") from error

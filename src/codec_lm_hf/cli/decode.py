"""`codec-lm decode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, BinaryIO

import typer

SUFFIXES = (".codes", ".ecdc", ".lyra")


def decode(
    source: Annotated[Path, typer.Argument(help=".codes, .ecdc or .lyra file, a folder of them, or - for standard input.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Audio file, folder, or - for standard output.")] = None,
    codec: Annotated[
        str | None, typer.Option(help="Directory or repository id; by default the codec that the file names.")
    ] = None,
) -> None:
    """Turn codes back into audio.

    Example: codec-lm decode speech.codes -o back.wav
    """
    from tqdm.auto import tqdm

    from .common import input_file, output_file, pairs

    found = sorted(path for path in source.rglob("*") if path.suffix in SUFFIXES) if source.is_dir() else []
    todo = pairs(source, output, found, ".wav")
    models: dict = {}
    for path, target in tqdm(todo, unit="file", disable=len(todo) < 2):
        if source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
        with input_file(path) as data, output_file(target) as file:
            write_decoded(path, data, file, target.suffix or ".wav", codec, models)


def write_decoded(path: Path, data: BinaryIO, file: BinaryIO, suffix: str, codec: str | None, models: dict) -> None:
    """Decode one open file into an open audio file."""
    kind = path.suffix if path.suffix in SUFFIXES else ".codes"
    if kind == ".codes":
        write_from_codes(data, file, suffix, codec, models)
        return
    if codec is None:
        raise ValueError(f"{path} does not say which weights decode it; name them with --codec.")
    model = _codec(codec, models)
    if kind == ".ecdc":
        from ..bitstream.ecdc import decompress

        audio = decompress(model, data.read())
    else:
        from ..bitstream.lyra import decompress

        audio = decompress(model, data.read())
    write_audio(file, [audio], model.config, suffix)


def write_from_codes(data: BinaryIO, file: BinaryIO, suffix: str, codec: str | None, models: dict) -> None:
    from ..bitstream.codes import CodesReader
    from ..bitstream.stream import decode_blocks, trimmed

    reader = CodesReader(data)
    model = _codec(codec or _known(reader.header), models)
    reader.header.check_codec(model)
    write_audio(file, trimmed(decode_blocks(model, reader), reader), model.config, suffix)


def _known(header) -> str:
    """The codec that a file names: the bundled one wherever it is installed, else a repository or directory."""
    import codec_lm_hf

    bundled = Path(codec_lm_hf.bundled("codec"))
    return str(bundled) if Path(header.codec).name == bundled.name and not Path(header.codec).exists() else header.codec


def _codec(name: str, models: dict):
    from .common import load_codec

    if name not in models:
        models[name] = load_codec(name)
    return models[name]


def write_audio(file: BinaryIO, blocks, config, suffix: str) -> None:
    """Write blocks `(channels, samples)` as 16-bit audio."""
    import numpy as np
    import soundfile

    from ..processing.audio import EXTENSIONS

    if suffix not in EXTENSIONS:
        raise ValueError(f"unknown audio format {suffix!r}; choose one of {', '.join(EXTENSIONS)}.")
    subtype = {".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III"}.get(suffix, "PCM_16")
    form = {".opus": "OGG", ".aif": "AIFF"}.get(suffix, suffix[1:].upper())
    with soundfile.SoundFile(file, "w", config.sampling_rate, config.audio_channels, subtype, format=form) as sink:
        for block in blocks:
            sink.write(np.clip(block, -1, 1).T)

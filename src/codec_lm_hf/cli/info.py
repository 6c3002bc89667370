"""`codec-lm info`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..processing.tasks import Task
from ..registry import Family


def info(
    target: Annotated[
        str,
        typer.Argument(
            help="A codec or codec language model (directory or repository id), or a .codes, .ecdc or .dac file."
        ),
    ] = "",
) -> None:
    """Show what a codec, a language model or a file of codes is. Without an argument: the bundled codec.

    Example: codec-lm info bundled:tts
    """
    from ..modeling.auto import family_at
    from ..pretrained import locate
    from .common import BUNDLED, SUFFIXES

    if target and (Path(target).is_file() or Path(target).suffix.lower() in SUFFIXES and not Path(target).exists()):
        rows = _file(Path(target))
    else:
        place = locate(target or BUNDLED)
        row = family_at(place)
        rows = _language_model(row, place) if row is not None and row.kind == "lm" else _codec(target or None)
    for name, value in rows.items():
        typer.echo(f"{name}: {value}")


def _file(path: Path) -> dict:
    """What a `.codes` or `.dac` file says, all of it read, or what the header of an `.ecdc` file says."""
    from ..bitstream import dac_container, ecdc
    from ..bitstream.codes import CodesReader
    from .common import input_file

    if path.suffix.lower() == ".lyra":
        raise ValueError(f"{path}: .lyra files have no header to show; decode them with --codec and --bandwidth.")
    with input_file(path) as file:
        if file.read(len(ecdc.MAGIC)) == ecdc.MAGIC:
            return {**asdict(ecdc.read_header(path.read_bytes())), "size": f"{path.stat().st_size} bytes"}
        file.seek(0)
        if file.read(len(dac_container.MAGIC)) == dac_container.MAGIC:
            fields = asdict(dac_container.read(path.read_bytes()))
            shape = dict(zip(("channels", "codebooks", "frames"), fields.pop("codes").shape, strict=True))
            return {**shape, **fields, "size": f"{path.stat().st_size} bytes"}
        file.seek(0)
        reader = CodesReader(file)
        frames = sum(codes.shape[1] for codes, _ in reader)
    seconds = reader.samples / reader.header.sampling_rate
    kbps = path.stat().st_size * 8 / max(seconds, 1e-9) / 1000
    figures = {"frames": frames, "seconds": f"{seconds:.3f}", "kbps on disk": f"{kbps:.3f}"}
    return asdict(reader.header) | figures


def _language_model(row: Family, place: str) -> dict:
    import transformers
    from transformers.utils import PROCESSOR_NAME

    from ..hub import Home

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = row.load("model").from_pretrained(place)
    rows = {
        "model": type(model).__name__,
        "tasks": ", ".join(f"{task} ({Task[task].value.title})" for task in row.tasks),
        "codebooks": f"{model.config.num_codebooks} x {model.config.codebook_size}",
        "weights": f"{model.num_parameters():,}",
    }
    if Home.of(place, {}).has(PROCESSOR_NAME):
        codec = row.load("processor").from_pretrained(place).codec
        figures = f"{codec.config.sampling_rate} Hz, {codec.config.frame_rate:g} frames/s"
        rows["codec"] = f"{type(codec).__name__}, {figures}"
    return rows


def _codec(name: str | None) -> dict:
    from .common import load_codec

    model = load_codec(name)
    config = model.config
    weights = sum(parameter.numel() for parameter in model.parameters())
    rows = {
        "model": type(model).__name__,
        "sampling rate": f"{config.sampling_rate} Hz",
        "channels": config.audio_channels,
        "frame rate": f"{config.frame_rate:g} Hz ({config.hop_length} samples)",
        "codebooks": f"{config.num_codebooks} x {config.codebook_size}",
        "bandwidths": ", ".join(f"{rate:g}" for rate in config.bandwidths) + " kbps",
        "weights": f"{weights:,}",
        "streaming": f"yes, look-ahead {model.stream_latency} samples" if model.streamable else "no (whole segments)",
        "long audio": _long_audio(model),
    }
    record = Path(config._name_or_path) / "conversion.json"
    if record.is_file():
        rows |= {"converted from": json.dumps(json.loads(record.read_text())["source"])}
        rows |= {"licence of the weights": json.loads(record.read_text())["weights_license"]}
    return rows


def _long_audio(model) -> str:
    from .encode import segment_seconds_of

    if model.config.chunk_length_s is not None:
        return f"in segments of {model.config.chunk_length_s:g} s"
    seconds = segment_seconds_of(model)
    if seconds is None:
        return "with the result of one piece"
    return f"looks at all of it: `codec-lm encode` codes segments of {seconds:g} s, with another result"

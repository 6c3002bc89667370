"""`codec-lm info`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def info(
    target: Annotated[str, typer.Argument(help="A codec (directory or repository id) or a .codes file.")] = "",
) -> None:
    """Show what a codec or a .codes file is. Without an argument: the bundled codec.

    Example: codec-lm info
    """
    if target and Path(target).is_file():
        from ..bitstream.codes import CodesReader

        with Path(target).open("rb") as file:
            reader = CodesReader(file)
            frames = sum(codes.shape[1] for codes, _ in reader)
        header = reader.header
        size = Path(target).stat().st_size
        seconds = reader.samples / header.sampling_rate
        for name, value in asdict(header).items():
            typer.echo(f"{name}: {value}")
        typer.echo(
            f"frames: {frames}\nseconds: {seconds:.3f}\nkbps on disk: {size * 8 / max(seconds, 1e-9) / 1000:.3f}"
        )
        return
    from .common import load_codec

    model = load_codec(target or None)
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
    }
    record = Path(config._name_or_path) / "conversion.json"
    if record.is_file():
        rows |= {"converted from": json.dumps(json.loads(record.read_text())["source"])}
        rows |= {"licence of the weights": json.loads(record.read_text())["weights_license"]}
    for name, value in rows.items():
        typer.echo(f"{name}: {value}")

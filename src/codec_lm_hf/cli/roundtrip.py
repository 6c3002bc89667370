"""`codec-lm roundtrip`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def roundtrip(
    source: Annotated[
        Path | None, typer.Argument(help="Audio file; the recording that comes with the package by default.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("out"),
    codec: Annotated[
        str | None, typer.Option(help="Directory or repository id; the bundled codec by default.")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Rate in kbps; the codec's highest by default.")] = None,
) -> None:
    """Code and decode a recording, measure the result, and write audio, codes and a picture.

    Example: codec-lm roundtrip --output out
    """
    from ..demo.roundtrip import run
    from .common import load_codec

    rows = run(source, output, load_codec(codec), bandwidth)
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value}")
    typer.echo(f"\nwritten to {output}/: {', '.join(sorted(path.name for path in output.iterdir()))}")

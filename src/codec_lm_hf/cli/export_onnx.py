"""`codec-lm export-onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_onnx(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    seconds: Annotated[
        float,
        typer.Option(
            min=0, max=3600, help="Length of the audio that the graphs take; with --dynamic, the shortest one."
        ),
    ] = 1.0,
    codec: Annotated[
        str | None, typer.Option(help="Directory or repository id; the bundled codec by default.")
    ] = None,
    num_quantizers: Annotated[int | None, typer.Option(help="Codebooks; all of them by default.")] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Take any number of frames, from --seconds on.")] = False,
) -> None:
    """Write a codec as ONNX graphs, encoder.onnx and decoder.onnx, for audio of one length or of any.

    Example: codec-lm export-onnx --seconds 1 -o onnx
    """
    from ..conversion_scripts.onnx import export_onnx as run
    from .common import load_codec

    model = load_codec(codec)
    samples = round(seconds * model.config.sampling_rate)
    typer.echo(f"written to {run(model, output, samples, num_quantizers, dynamic)}")

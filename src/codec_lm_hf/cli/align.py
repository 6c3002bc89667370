"""`codec-lm align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def align(
    codes: Annotated[Path, typer.Argument(help="Folder that codec-lm tokenize wrote, of recordings with texts.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the data set with durations.")],
    frontend: Annotated[
        str, typer.Option(help="Symbols of texts: graphemes, phonemes, gruut, or ipa (already transcribed).")
    ] = "graphemes",
    column: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    speaker: Annotated[str | None, typer.Option(help="Column that says who speaks, if there is one.")] = None,
    codec: Annotated[
        str | None, typer.Option(help="Where the codec is now, if it moved since it made the codes.")
    ] = None,
) -> None:
    """Find how long each symbol of a text is said, for models with monotonic alignment (needs the extra `train`).

    Example: codec-lm align codes -o aligned
    """
    from ..training.alignment import add_durations
    from ..training.tokenize import new_folder, read_codes, read_header, write_codes
    from .common import load_codec

    rows, header = read_codes(codes), read_header(codes)
    model = load_codec(codec or header.find_codec(), None if codec else header.revision)
    header.check_codec(model)
    new_folder(output)
    write_codes(add_durations(rows, model, frontend, column, speaker), codes, output)
    typer.echo(f"{output}: {len(rows)} recordings aligned")

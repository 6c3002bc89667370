"""`codec-lm export-native`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_native(
    model: Annotated[str, typer.Option(help="Directory or repository id of a model with its processor.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist or be empty.")],
) -> None:
    """Write a model in the layout of transformers' own class for it (EnCodec, MusicGen).

    Example: codec-lm export-native --model my-codec -o native
    """
    import transformers

    from ..conversion_scripts import export_native as run

    transformers.logging.disable_progress_bar()
    typer.echo(f"written to {run(model, output)}")

"""`codec-lm convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    family: Annotated[str, typer.Argument(help="Family, as `codec-lm list` names it.")],
    checkpoint: Annotated[
        Path, typer.Option(help="Original checkpoint: a file, or a folder where there are several.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist or be empty.")],
    config: Annotated[Path | None, typer.Option(help="The original project's configuration (JSON or YAML).")] = None,
    preset: Annotated[
        str | None, typer.Option(help="A published variant, where there is no configuration file.")
    ] = None,
) -> None:
    """Convert an original checkpoint into a directory for from_pretrained. Nothing in it is executed.

    Example: codec-lm convert encodec --checkpoint encodec_24khz.th -o my-codec
    """
    import transformers

    from ..conversion_scripts import convert as run

    transformers.logging.disable_progress_bar()
    typer.echo(f"written to {run(family, checkpoint, output, config=config, preset=preset)}")

"""`codec-lm train-codec`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_codec(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe; see recipes/.")],
    data_root: Annotated[Path, typer.Option(help="Folder that the recipe's data folders are below.")] = Path("."),
    start_from: Annotated[
        str | None, typer.Option("--from", help="Checkpoint to fine-tune instead of a fresh model.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in the output folder.")] = False,
    output_dir: Annotated[Path | None, typer.Option(help="Replaces the recipe's.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Replaces the recipe's.")] = None,
) -> None:
    """Train a codec as a recipe says (needs the extra `train`).

    On several devices: accelerate launch -m codec_lm_hf.cli train-codec RECIPE

    Example: codec-lm train-codec recipes/bundled_codec.yaml --data-root DATA
    """
    from ..training.codec_recipe import run_recipe

    overrides = {"output_dir": str(output_dir) if output_dir else None, "max_steps": max_steps}
    given = {name: value for name, value in overrides.items() if value is not None}
    run_recipe(recipe, data_root, start_from, resume, **given)

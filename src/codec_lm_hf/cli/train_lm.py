"""`codec-lm train-lm`."""

from __future__ import annotations

from pathlib import Path

from .common import DataRoot, MaxSteps, OutputDir, Recipe, Resume, StartFrom, training_overrides


def train_lm(
    recipe: Recipe,
    data_root: DataRoot = Path("."),
    start_from: StartFrom = None,
    resume: Resume = False,
    output_dir: OutputDir = None,
    max_steps: MaxSteps = None,
) -> None:
    """Train a codec language model on codes, as a recipe says (needs the extra `train`).

    On several devices: accelerate launch -m codec_lm_hf.cli train-lm RECIPE

    Example: codec-lm train-lm recipes/valle_phrases.yaml --data-root DATA
    """
    from ..training.lm_recipe import run_recipe

    run_recipe(recipe, data_root, start_from, resume, **training_overrides(output_dir, max_steps))

"""`codec-lm train-codec`."""

from __future__ import annotations

from pathlib import Path

from .common import DataRoot, MaxSteps, OutputDir, Recipe, Resume, StartFrom, training_overrides


def train_codec(
    recipe: Recipe,
    data_root: DataRoot = Path("."),
    start_from: StartFrom = None,
    resume: Resume = False,
    output_dir: OutputDir = None,
    max_steps: MaxSteps = None,
) -> None:
    """Train a codec as a recipe says (needs the extra `train`).

    On several devices: accelerate launch -m codec_lm_hf.cli train-codec RECIPE

    Example: codec-lm train-codec recipes/stft_codec_16khz.yaml --data-root DATA
    """
    from ..training.codec_recipe import run_recipe

    run_recipe(recipe, data_root, start_from, resume, **training_overrides(output_dir, max_steps))

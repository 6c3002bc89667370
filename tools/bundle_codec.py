"""Turns a finished training run into the bundled codec: half-precision weights, card, recipe, log and metrics.

python tools/bundle_codec.py runs/bundled_codec --metrics codec_quality.json
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save_file

import codec_lm_hf
from codec_lm_hf.hub import build_model_card

PROJECT = Path(__file__).parents[1]
TARGET = PROJECT / "src/codec_lm_hf/pretrained/codec"
COLUMNS = ("step", "mel_loss", "eval_mel_loss", "eval_log_mel_distance", "eval_pesq_wb", "eval_stoi")


def save_half(run: Path, target: Path) -> None:
    """Weights and codebooks as float16 on disk; the configuration says that they are used as float32."""
    model = codec_lm_hf.AutoCodecModel.from_pretrained(run)
    model.save_pretrained(target)
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    for name, value in state.items():
        if not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"{name} does not fit into half precision.")
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    codec_lm_hf.CodecFeatureExtractor.from_pretrained(run).save_pretrained(target)


def write_log(run: Path, target: Path) -> None:
    """The run's losses and evaluations as one small table."""
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    rows: dict[int, dict] = {}
    for entry in history:
        rows.setdefault(entry["step"], {}).update(entry)
    with (target / "training_log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for step in sorted(rows):
            if "eval_stoi" in rows[step]:
                writer.writerow({name: _short(rows[step].get(name, "")) for name in COLUMNS})


def summary(metrics: dict) -> dict:
    """The figures without those of single recordings."""
    drop = "recordings"
    parts = {
        part: [{k: v for k, v in row.items() if k != drop} for row in metrics[part]] for part in ("quality", "speech")
    }
    return {**{name: value for name, value in metrics.items() if name != drop}, **parts}


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else value


def main(
    run: Annotated[Path, typer.Argument(help="Output folder of the run.")],
    metrics: Annotated[Path, typer.Option(help="What benchmarks/codec_quality.py wrote about the bundled codec.")],
    notes: Annotated[Path, typer.Option(help="Markdown on training and quality, for the card.")],
    recipe: Annotated[Path, typer.Option(help="Recipe of the run.")] = PROJECT / "recipes/bundled_codec.yaml",
) -> None:
    """Write src/codec_lm_hf/pretrained/codec."""
    TARGET.mkdir(parents=True, exist_ok=True)
    save_half(run, TARGET)
    write_log(run, TARGET)
    shutil.copyfile(recipe, TARGET / "recipe.yaml")
    (TARGET / "metrics.json").write_text(json.dumps(summary(json.loads(metrics.read_text())), indent=1) + "\n")
    model = codec_lm_hf.AutoCodecModel.from_pretrained(TARGET)
    card = build_model_card(
        model.config, "codec-lm-hf/bundled-codec-16khz", "apache-2.0", source=notes.read_text(encoding="utf-8").strip()
    )
    card.save(TARGET / "README.md")


if __name__ == "__main__":
    typer.run(main)

"""What the bundled checkpoints have in common: half-precision weights, and logs and figures small enough to keep."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

PROJECT = Path(__file__).parents[1]
PRETRAINED = PROJECT / "src/codec_lm_hf/pretrained"


def save_half(model: PreTrainedModel, target: Path) -> None:
    """A model with its weights as float16 on disk; the configuration says that they are used as float32."""
    model.save_pretrained(target)
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    for name, value in state.items():
        if not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"{name} does not fit into half precision.")
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def save_history(runs: list[Path], columns: tuple[str, ...], target: Path) -> None:
    """The recipes of runs, which have the names of their folders, and the evaluations as one small table."""
    rows: dict[tuple[int, int], dict] = {}
    for number, run in enumerate(runs):
        shutil.copyfile(PROJECT / f"recipes/{run.name}.yaml", target / f"{run.name}.yaml")
        for entry in json.loads((run / "trainer_state.json").read_text())["log_history"]:
            rows.setdefault((number, entry["step"]), {"run": run.name, "step": entry["step"]}).update(entry)
    with (target / "training_log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("run", "step", *columns), extrasaction="ignore")
        writer.writeheader()
        for place in sorted(rows):
            if columns[-1] in rows[place]:
                writer.writerow({name: _short(value) for name, value in rows[place].items()})


def save_metrics(report: Path, parts: tuple[str, ...], target: Path) -> None:
    """A benchmark's report without the figures of single recordings, and without their place on a machine."""
    known = _without_recordings(json.loads(report.read_text()))
    known |= {part: [_without_recordings(row) for row in known[part]] for part in parts}
    (target / "metrics.json").write_text(json.dumps(known, indent=1) + "\n")


def _without_recordings(report: dict) -> dict:
    return {name: value for name, value in report.items() if name != "recordings"}


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else value

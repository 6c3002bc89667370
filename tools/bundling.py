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
    """The recipes of runs, which have the names of their folders, and the evaluations as one small table.

    A run whose folder is gone keeps the rows that an earlier table in `target` has of it.

    Raises:
        FileNotFoundError: neither a folder nor a table tells of a run.
    """
    log, rows = target / "training_log.csv", []
    earlier = list(csv.DictReader(log.read_text(encoding="utf-8").splitlines())) if log.is_file() else []
    for run in runs:
        shutil.copyfile(PROJECT / f"recipes/{run.name}.yaml", target / f"{run.name}.yaml")
        kept = [row for row in earlier if row["run"] == run.name]
        rows += _evaluations(run, columns[-1]) if run.is_dir() or not kept else kept
    with log.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("run", "step", *columns), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _evaluations(run: Path, measured: str) -> list[dict]:
    """Rows of a table: what the run's log says of the steps at which `measured` was."""
    rows: dict[int, dict] = {}
    for entry in json.loads((run / "trainer_state.json").read_text())["log_history"]:
        rows.setdefault(entry["step"], {"run": run.name, "step": entry["step"]}).update(entry)
    steps = sorted(step for step, row in rows.items() if measured in row)
    return [{name: _short(value) for name, value in rows[step].items()} for step in steps]


def save_metrics(report: Path, parts: tuple[str, ...], target: Path) -> None:
    """A benchmark's report without the figures of single recordings, and without their place on a machine."""
    known = _without_recordings(json.loads(report.read_text()))
    known |= {part: [_without_recordings(row) for row in known[part]] for part in parts}
    (target / "metrics.json").write_text(json.dumps(known, indent=1) + "\n")


def _without_recordings(report: dict) -> dict:
    return {name: value for name, value in report.items() if name != "recordings"}


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else value

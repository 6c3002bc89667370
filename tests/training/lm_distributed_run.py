"""What each process of `test_lm_distributed.py` does; started by `accelerate launch`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import datasets
import torch
import torch.distributed as dist

from codec_lm_hf.training.recipe_base import finish
from tests.training.lm_helpers import train, trainer
from tests.training.test_lm_resume import GROUPED, STREAMED, state_of

# Nine examples, four a step: three steps an epoch, so the checkpoint is in the middle of the second.
OPTIONS = {"training__max_steps": 6, "training__save_strategy": "steps", "training__save_steps": 4}
OPTIONS |= {"training__per_device_train_batch_size": 2, "evaluation__rows": 3}
RUNS = {"memory": {"data__join": 2, **GROUPED}, "stream": STREAMED}


class Length:
    """A judge that needs nothing installed: the mean length of what was said, in seconds."""

    def __call__(self, generated):
        return {"length": len(generated.audio) / generated.sampling_rate}

    def score(self, rows):
        return sum(row["length"] for row in rows) / len(rows)


def metrics_of(run) -> dict[str, float]:
    """What an evaluation finds, but for its speed."""
    run.speaking.judges = {"length": Length()}
    found = run.evaluate()
    return {name: value for name, value in found.items() if not name.endswith(("per_second", "time", "epoch"))}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    # datasets waits five seconds at the end of every pass over streamed Parquet.
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    result = {}
    for name, changes in RUNS.items():
        run = trainer(root, root / name, **OPTIONS, **changes)
        rank, seen = run.args.process_index, []
        hook = run.model.register_forward_pre_hook(
            lambda _, args, given, seen=seen: seen.append(given["labels"].clone()), with_kwargs=True
        )
        finish(run, resume=False)
        hook.remove()
        result[name] = {"state": state_of(run), "seen": seen, "metrics": metrics_of(run)}
        if rank == 0:
            shutil.copytree(root / name / "checkpoint-4", root / f"{name}-resumed" / "checkpoint-4")
        dist.barrier()
        resumed = train(root, root / f"{name}-resumed", resume=True, **OPTIONS, **changes)
        result[name]["resumed"] = state_of(resumed)
    torch.save(result, root / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

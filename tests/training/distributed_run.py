"""What each process of `test_distributed.py` does; started by `accelerate launch`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.training.helpers import clips, trainer
from tests.training.test_resume import EVERYTHING, state_of


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # 20 crops, 6 a step: four steps an epoch, so the checkpoint is in the middle of the second.
    options = {**EVERYTHING, "max_steps": 8, "per_device_train_batch_size": 3}
    schedule = {"save_strategy": "steps", "save_steps": 6, "logging_steps": 2}
    run = trainer(folder / "whole", folder / "audio", **options, **schedule)
    rank = run.args.process_index
    seen = []
    run.model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_values"]), with_kwargs=True)
    own, record = [], run._record
    run._record = lambda losses: (own.append({name: float(loss) for name, loss in losses.items()}), record(losses))
    run.train()
    result = {"state": state_of(run), "seen": torch.stack(seen), "own": own, "logged": run.state.log_history}

    # Three clips for two processes, then one: a share that is empty.
    for count in (3, 1):
        run.eval_dataset = clips(folder / "audio", count)
        result[f"metrics-{count}"] = run.evaluate()

    if rank == 0:
        shutil.copytree(folder / "whole" / "checkpoint-6", folder / "resumed" / "checkpoint-6")
    dist.barrier()
    resumed = trainer(folder / "resumed", folder / "audio", seed=1, **options, **schedule)
    resumed.train(resume_from_checkpoint=True)
    result["resumed"] = state_of(resumed)

    # Each process has another clock: here only the first one thinks that the time is over.
    minutes = 0.0 if rank == 0 else 60.0
    stopped = trainer(folder / "stopped", folder / "audio", **{**options, "max_train_minutes": minutes})
    stopped.train()
    result["stopped_at"] = stopped.state.global_step

    run.save_model(str(folder / "final"))
    torch.save(result, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What the trainers of this package add to transformers': order that can be resumed, a time limit, samples."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from ..modeling.quantization.kmeans import broadcast


@dataclass
class BaseTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments`, and what every trainer here has beside them.

    Args:
        max_train_minutes: stop (and save) after this wall-clock time.
        sample_count: samples that are written at each evaluation, to `output_dir/samples/step-N`; audio also goes to
            TensorBoard, if `report_to` has it.
    """

    max_train_minutes: float | None = field(default=None)
    sample_count: int = field(default=2)

    def __post_init__(self):
        super().__post_init__()
        # The trainer feeds the model itself; columns are not looked up by the model's signature.
        self.remove_unused_columns = False
        # The order of the data follows from this number and the epoch alone, not from random numbers drawn before.
        if self.data_seed is None:
            self.data_seed = self.seed


class _StopAfter(TrainerCallback):
    """Ends training after a wall-clock time."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes

    def on_train_begin(self, args, state, control, **kwargs):
        self.deadline = time.monotonic() + self.minutes * 60

    def on_step_end(self, args, state, control, **kwargs):
        # The first process decides: clocks differ, and a process that goes on alone would wait for the others forever.
        late = torch.tensor(float(time.monotonic() > self.deadline), device=args.device)
        if bool(broadcast(late)):
            control.should_training_stop = control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"


class _TellEpoch(TrainerCallback):
    """Tells the data its epoch; accelerate does so in a single process only, not after a resume within an epoch."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.set_epoch(int(state.epoch or 0))


class BaseTrainer(Trainer):
    """A `transformers.Trainer` with a time limit, data that knows its epoch, and samples.

    Args:
        args: `BaseTrainingArguments`.
        train_dataset: is told its epoch if it has `set_epoch`.
        **kwargs: as for `transformers.Trainer`.
    """

    def __init__(self, model, args: BaseTrainingArguments, train_dataset=None, **kwargs) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset, **kwargs)
        if hasattr(train_dataset, "set_epoch"):
            self.add_callback(_TellEpoch(train_dataset))
        if args.max_train_minutes is not None:
            self.add_callback(_StopAfter(args.max_train_minutes))

    def sample_folder(self) -> Path:
        """Where the samples of this step are written."""
        folder = Path(self.args.output_dir) / "samples" / f"step-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def report_audio(self, name: str, audio: np.ndarray, sampling_rate: int) -> None:
        """Show `audio` `(channels, samples)` on the boards that `report_to` asks for, mixed to one channel."""
        for board in self._boards():
            board.add_audio(f"samples/{name}", audio.mean(0).clip(-1, 1), self.state.global_step, sampling_rate)

    def report_text(self, name: str, text: str) -> None:
        """Show a text, in Markdown, on the boards that `report_to` asks for."""
        for board in self._boards():
            board.add_text(f"samples/{name}", text, self.state.global_step)

    def _boards(self) -> list:
        """TensorBoard's writer, while training, in the process that reports."""
        found = [each for each in self.callback_handler.callbacks if isinstance(each, TensorBoardCallback)]
        return [callback.tb_writer for callback in found if callback.tb_writer is not None]

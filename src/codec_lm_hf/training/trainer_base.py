"""What the trainers of this package add to transformers': order that can be resumed, a time limit, samples."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length

from ..modeling.quantization.kmeans import broadcast

# Errors and distances; of what is not called a loss, transformers takes more to be better.
_LESS_IS_BETTER = ("wer", "log_mel_distance")


@dataclass
class BaseTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments`, and what every trainer here has beside them.

    Args:
        max_train_minutes: stop (and save) after this wall-clock time.
        greater_is_better: as in transformers; by default false for word errors and distances as well as for losses.
        sample_count: samples that are written at each evaluation, to `output_dir/samples/step-N`; audio also goes to
            TensorBoard, if `report_to` has it.
    """

    max_train_minutes: float | None = field(default=None)
    sample_count: int = field(default=2)

    def __post_init__(self):
        if self.greater_is_better is None and str(self.metric_for_best_model).endswith(_LESS_IS_BETTER):
            self.greater_is_better = False
        super().__post_init__()
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor} is not supported: models here compute "
                "their own losses; leave it out."
            )
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
    """Tells something its epoch; accelerate does so in a single process only, not after a resume within an epoch."""

    def __init__(self, told) -> None:
        self.told = told

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.told.set_epoch(int(state.epoch or 0))


class GroupedByLength(LengthGroupedSampler):
    """Rows of like length together, in an order that follows from the seed and the epoch alone.

    That of transformers draws it from whatever random numbers come next, which after a resume are others.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def _length(row) -> int:
    """Of the longest part of a row along its last axis, which is that of time."""
    return max(np.shape(value)[-1] for value in row.values() if np.ndim(value))


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

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not has_length(dataset):
            return super()._get_train_sampler(train_dataset)
        column = self.args.length_column_name
        known = column in (getattr(dataset, "column_names", None) or ())
        lengths = list(dataset[column]) if known else [_length(row) for row in dataset]
        together = self.args.train_batch_size * self.args.gradient_accumulation_steps
        sampler = GroupedByLength(together, lengths, self.args.data_seed)
        self.add_callback(_TellEpoch(sampler))
        return sampler

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

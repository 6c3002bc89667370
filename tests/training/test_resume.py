"""A run that is interrupted and resumed is the run that was not: parameters, optimizers and counters, by the bit."""

from __future__ import annotations

import shutil

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from codec_lm_hf.training.data import StreamCropDataset
from codec_lm_hf.training.trainer import CodecTrainer
from tests.training.helpers import CROP, RATE, arguments, codec, discriminator, trainer, write_recordings

# 10 recordings of two crops each, 5 crops a batch: 4 batches an epoch.
EVERYTHING = {
    "adversarial": True,
    "max_steps": 10,
    "discriminator_start_step": 2,
    "discriminator_every": 2,
    "balance_losses": True,
    "ema_decay": 0.9,
    "stft_weight": 0.5,
    "mel_scales_per_step": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
}
ACCUMULATED = {
    "adversarial": True,
    "max_steps": 5,
    "gradient_accumulation_steps": 2,
    "adversarial_kind": "least_squares",
    "ema_decay": 0.9,
    "lr_scheduler_type": "linear",
    "discriminator_seconds": 0.1,
    "bf16": True,
}


def flatten(value, prefix: str = "") -> dict[str, object]:
    """Nested dicts and lists to one dict of tensors and plain values."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, (list, tuple)):
        pairs = enumerate(value)
    else:
        return {prefix: value}
    return {key: leaf for name, part in pairs for key, leaf in flatten(part, f"{prefix}.{name}").items()}


def state_of(trained) -> dict[str, object]:
    state = {
        "codec": trained.model.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "scheduler": trained.lr_scheduler.state_dict(),
        "discriminator": trained.discriminator.state_dict(),
        "discriminator_optimizer": trained.discriminator_optimizer.state_dict(),
        "discriminator_scheduler": trained.discriminator_scheduler.state_dict(),
        "averaged": trained.averaged.state_dict(),
        "balancer": trained.balancer.state_dict() if trained.balancer is not None else None,
        "random": torch.get_rng_state(),
    }
    return flatten(state)


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    different = [
        name
        for name, value in one.items()
        if not (torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name])
    ]
    assert not different, f"{len(different)} of {len(one)} differ, for example {different[:5]}"


@pytest.mark.parametrize(
    ("options", "step"),
    [
        pytest.param(EVERYTHING, 4, id="epoch-boundary"),
        pytest.param(EVERYTHING, 6, id="mid-epoch"),
        pytest.param(ACCUMULATED, 2, id="accumulated-epoch-boundary"),
        pytest.param(ACCUMULATED, 3, id="accumulated-mid-epoch"),
    ],
)
def test_resumed_equals_uninterrupted(options, step, tmp_path):
    recordings = write_recordings(tmp_path / "audio")
    schedule = {"save_strategy": "steps", "save_steps": step, "eval_strategy": "steps", "eval_steps": 3}
    whole = trainer(tmp_path / "whole", recordings, **options, **schedule)
    whole.train()
    expected = state_of(whole)

    checkpoint = tmp_path / "resumed" / f"checkpoint-{step}"
    shutil.copytree(tmp_path / "whole" / checkpoint.name, checkpoint)
    # Another start, which the checkpoint replaces.
    resumed = trainer(tmp_path / "resumed", recordings, seed=1, **options, **schedule)
    resumed.train(resume_from_checkpoint=True)

    assert resumed.state.global_step == options["max_steps"]
    assert_same(expected, state_of(resumed))


def test_resumed_within_a_stream_equals_uninterrupted(tmp_path):
    """Three passes over a stream of ten recordings, interrupted in the second."""
    recordings = write_recordings(tmp_path / "audio")
    names = [{"audio": str(path)} for path in sorted(recordings.iterdir())]

    def run(name: str, seed: int):
        stream = Dataset.from_list(names).to_iterable_dataset()
        data = StreamCropDataset(stream, RATE, 1, CROP, seed=3)
        args = arguments(tmp_path / name, max_steps=6, ema_decay=0.9, save_strategy="steps", save_steps=3)
        return CodecTrainer(codec(seed), args, discriminator(seed), train_dataset=data)

    whole = run("whole", 0)
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    resumed = run("resumed", 1)
    resumed.train(resume_from_checkpoint=True)
    assert_same(state_of(whole), state_of(resumed))


def test_a_run_can_be_repeated(tmp_path):
    recordings = write_recordings(tmp_path / "audio")
    states = []
    for name in ("one", "other"):
        run = trainer(tmp_path / name, recordings, **EVERYTHING)
        run.train()
        states.append(state_of(run))
    assert_same(*states)

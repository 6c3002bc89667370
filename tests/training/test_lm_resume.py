"""A language model's run that is interrupted and resumed is the run that was not, by the bit."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.training.lm_helpers import make_codes, train
from tests.training.test_resume import assert_same, flatten

# Nine examples, three a batch: three batches an epoch. Evaluations draw what is said, between the steps.
LISTENING = {
    "training__max_steps": 5,
    "training__save_strategy": "steps",
    "training__eval_strategy": "steps",
    "training__eval_steps": 2,
    "training__lr_scheduler_type": "cosine",
    "model__dropout": 0.1,
}
JOINED = {"data__join": 2}
STREAMED = {"data__streaming": True, "data__prompt": {"prompt_codes": "codes"}, "model__prefix_mode": 4}
GROUPED = {"training__train_sampling_strategy": "group_by_length"}
ACCUMULATED = {"training__gradient_accumulation_steps": 2, "training__bf16": True, "evaluation": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_codes(tmp_path_factory.mktemp("data"))


def state_of(trained) -> dict[str, object]:
    state = {
        "model": trained.model.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "scheduler": trained.lr_scheduler.state_dict(),
        "random": torch.get_rng_state(),
    }
    return flatten(state)


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        pytest.param(JOINED, 3, id="epoch-boundary"),
        pytest.param(JOINED, 4, id="mid-epoch"),
        pytest.param(STREAMED, 4, id="streamed"),
        pytest.param(GROUPED, 4, id="grouped-by-length-mid-epoch"),
        pytest.param(ACCUMULATED, 1, id="accumulated-bfloat16-mid-epoch"),
    ],
)
def test_resumed_equals_uninterrupted(root, tmp_path, changes, step):
    changes = {**LISTENING, "training__save_steps": step, **changes}
    whole = train(root, tmp_path / "whole", **changes)
    expected = state_of(whole)
    checkpoint = tmp_path / "resumed" / f"checkpoint-{step}"
    shutil.copytree(tmp_path / "whole" / checkpoint.name, checkpoint)
    resumed = train(root, tmp_path / "resumed", resume=True, **changes)
    assert resumed.state.global_step == 5
    assert_same(expected, state_of(resumed))
    assert resumed.state.log_history[-2].get("eval_loss") == whole.state.log_history[-2].get("eval_loss")

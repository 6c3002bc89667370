"""Language models train in two processes on one CPU (gloo), started as a user starts them."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from codec_lm_hf import ValleForConditionalGeneration
from tests.training.helpers import launch
from tests.training.lm_distributed_run import OPTIONS, RUNS, metrics_of
from tests.training.lm_helpers import make_codes, trainer
from tests.training.test_resume import assert_same

every_run = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The results of both processes, and their folder."""
    root = make_codes(tmp_path_factory.mktemp("distributed"))
    launch("tests.training.lm_distributed_run", root)
    return [torch.load(root / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)], root


@every_run
def test_both_processes_hold_the_same_weights(run, name):
    # The random numbers differ where one process draws more of them.
    shared = [{k: v for k, v in result[name]["state"].items() if k != ".random"} for result in run[0]]
    assert_same(*shared)


@every_run
def test_each_process_sees_its_own_share_of_the_data(run, name):
    first, second = (list(itertools.chain(*result[name]["seen"])) for result in run[0])
    assert len(first) >= OPTIONS["training__max_steps"] and len(second) >= OPTIONS["training__max_steps"]
    for one, other in zip(first, second, strict=False):
        assert one.shape != other.shape or not torch.equal(one, other)


@every_run
def test_resumed_within_an_epoch_equals_uninterrupted_in_both(run, name):
    for result in run[0]:
        assert_same(result[name]["state"], result[name]["resumed"])


def test_what_is_said_and_scored_is_what_a_single_process_says(run, tmp_path):
    results, root = run
    single = trainer(root, tmp_path / "single", **OPTIONS, **RUNS["memory"])
    single.model = ValleForConditionalGeneration.from_pretrained(root / "memory")
    single.processing_class.codec.eval()
    expected = metrics_of(single)
    for result in results:
        assert result["memory"]["metrics"].keys() == expected.keys()
        for name, value in expected.items():
            if name != "eval_loss":  # the Trainer weighs rows by their codes, over all processes
                assert result["memory"]["metrics"][name] == pytest.approx(value), name
    tables = [folder / "samples" for folder in (root / "memory", tmp_path / "single")]
    one, other = (next(table.iterdir()) / "table.jsonl" for table in tables)
    assert one.read_text() == other.read_text() and len(one.read_text().splitlines()) == 3
    assert json.loads(one.read_text().splitlines()[0])["length"] >= 0


def test_one_process_writes_the_checkpoint(run):
    names = {path.name for path in (run[1] / "memory" / "checkpoint-4").iterdir()}
    assert {"model.safetensors", "processor_config.json", "codec", "rng_state_0.pth", "rng_state_1.pth"} <= names

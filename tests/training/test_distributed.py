"""Two processes on one CPU (gloo), started as a user starts them."""

from __future__ import annotations

import pytest
import torch

from tests.training.helpers import clips, launch, trainer, write_recordings
from tests.training.test_resume import assert_same


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The results of both processes, and their folder."""
    folder = tmp_path_factory.mktemp("distributed")
    write_recordings(folder / "audio")
    launch("tests.training.distributed_run", folder)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)], folder


def test_both_processes_hold_the_same_weights_codebooks_and_balancer(run):
    (first, second), _ = run
    codebooks = [name for name in first["state"] if "codebook.embed" in name]
    assert codebooks and all(first["state"][name].any() for name in codebooks)
    # The random numbers differ where one process draws more of them.
    shared = [{k: v for k, v in result["state"].items() if k != ".random"} for result in (first, second)]
    assert_same(*shared)


def test_each_process_sees_its_own_share_of_the_data(run):
    (first, second), _ = run
    assert first["seen"].shape == second["seen"].shape
    assert not any(torch.equal(one, other) for one, other in zip(first["seen"], second["seen"], strict=True))


def test_each_epoch_has_other_crops(run):
    """accelerate tells the data its epoch in a single process only."""
    for result in run[0]:
        first, second = (part.flatten(0, 1) for part in result["seen"].split(4))
        assert not any(torch.equal(crop, other) for crop in first for other in second)


@pytest.mark.parametrize("name", ["mel", "discriminator", "commitment"])
def test_losses_are_logged_over_both_processes(run, name):
    """As the sum of them all is, which transformers logs."""
    first, second = ([losses[name] for losses in result["own"] if name in losses] for result in run[0])
    assert first != second
    for result in run[0]:
        logged = [entry[f"{name}_loss"] for entry in result["logged"] if f"{name}_loss" in entry]
        assert sum(logged) / len(logged) == pytest.approx(sum(first + second) / len(first + second), rel=1e-5)


def test_resumed_within_an_epoch_equals_uninterrupted_in_both(run):
    results, _ = run
    for result in results:
        assert_same(result["state"], result["resumed"])


@pytest.mark.parametrize("count", [1, 3])
def test_evaluation_is_the_mean_over_all_recordings(run, count, tmp_path):
    results, folder = run
    single = trainer(tmp_path, folder / "audio")
    single.model = type(single.model).from_pretrained(folder / "final")
    single.eval_dataset = clips(folder / "audio", count)
    expected = single.evaluate()
    for result in results:
        for name in ("eval_mel_loss", "eval_si_sdr", "eval_log_mel_distance"):
            assert result[f"metrics-{count}"][name] == pytest.approx(expected[name], rel=1e-5)


def test_the_time_limit_stops_both_processes_at_the_same_step(run):
    assert [result["stopped_at"] for result in run[0]] == [1, 1]


def test_one_process_writes_the_checkpoint(run):
    checkpoint = run[1] / "whole" / "checkpoint-6"
    names = {path.name for path in checkpoint.iterdir()}
    assert {"model.safetensors", "discriminator", "codec_training.pt", "rng_state_0.pth", "rng_state_1.pth"} <= names

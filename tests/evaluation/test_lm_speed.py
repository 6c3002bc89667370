"""The benchmark of language models: works that take turns, and the script as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch

import codec_lm_hf
from tests.common.tiny_lm import TEXTS, TINY_LM

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPEECH = Path(codec_lm_hf.__file__).parent / "demo" / "speech.flac"


@pytest.fixture(scope="module")
def measuring():
    spec = importlib.util.spec_from_file_location("measuring", BENCHMARKS / "measuring.py")
    module = sys.modules["measuring"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["measuring"]


def test_works_take_turns(measuring):
    order = []

    def work(name, steps):
        def run(tick):
            for step in range(steps):
                order.append((name, step))
                tick()
            return name

        return run

    rounds, works = [], {"a": work("a", 3), "b": work("b", 1), "c": work("c", 2)}
    turns = measuring.take_turns(works, 1, rounds.append)
    assert order == [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("a", 1), ("a", 2)]
    assert [turn.result for turn in turns.values()] == ["a", "b", "c"]
    # The last time is from the last tick to the end.
    assert [len(turn.times) for turn in turns.values()] == [4, 2, 3]
    assert rounds == [0, 1, 2, 3]
    order.clear()
    measuring.take_turns(works, 1, last=["a"])
    assert order == [("b", 0), ("c", 0), ("a", 0), ("c", 1), ("a", 1), ("a", 2)]


def test_a_work_that_fails_ends_them_all(measuring):
    def fails(tick):
        tick()
        raise ValueError("no such codes")

    def goes_on(tick):
        while True:
            tick()

    with pytest.raises(ValueError, match="no such codes"):
        measuring.take_turns({"one": goes_on, "other": fails}, 1)


def test_only_the_working_thread_is_timed(measuring):
    def idle(tick):
        torch.randn(300, 300) @ torch.randn(300, 300)
        tick()
        return 0

    turns = measuring.take_turns({"one": idle, "other": idle}, 1)
    assert all(0 <= value < 5 for turn in turns.values() for value in turn.times)


def test_peak_memory_is_what_was_held(measuring):
    with measuring.peak_memory() as peak:
        torch.ones(2**24).sum()
    assert 60 < peak() < 120


def test_the_script_compares_codes_and_writes_a_table(tmp_path):
    checkpoint, clips = tmp_path / "tiny", tmp_path / "clips"
    for part in TINY_LM["valle"].pair():
        part.save_pretrained(checkpoint)
    clips.mkdir()
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    soundfile.write(clips / "a.flac", audio[: 2 * rate], rate)
    (clips / "metadata.jsonl").write_text(json.dumps({"file_name": "a.flac", "text": TEXTS[0]}) + "\n")
    command = [sys.executable, BENCHMARKS / "lm_speed.py", "--quick", "--seconds", "0.2", "--every", "5"]
    command += ["--batch", "2", "--memory-seconds", "0", "--checkpoint", checkpoint, "--recordings", clips]
    run = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads((tmp_path / "out/lm_speed.json").read_text())
    rows = {(row["model"], row["work"]): row for row in report["speed"]}
    # Whoever has the same weights in as many bits finds the same codes.
    for exact in (("musicgen", "transformers"), ("valle", "uncached")):
        assert rows[exact]["same_codes"] == 1
    for row in rows.values():
        assert row["codes_per_second"] > 0 and row["step_ms"] > 0 and row["roofline"] > 0
    assert rows["musicgen", "ours, int8"]["weights_mib"] < 0.5 * rows["musicgen", "ours"]["weights_mib"]
    assert "| musicgen | 2 | transformers |" in run.stdout
    assert "left out: vall-e-x, batch 2: it takes one row only" in run.stdout
    losses = {row["work"]: row["loss"] for row in report["quality"]}
    assert losses["ours, int8"] == pytest.approx(losses["ours"], rel=0.02)

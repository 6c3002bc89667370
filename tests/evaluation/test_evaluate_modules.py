"""The metrics as modules of the `evaluate` library."""

from __future__ import annotations

from pathlib import Path

import evaluate
import numpy as np
import pytest
import soundfile

import codec_lm_hf
from codec_lm_hf.evaluation import metrics, module

SPEECH = Path(codec_lm_hf.__file__).parent / "demo" / "speech.flac"


@pytest.fixture(scope="module")
def pairs():
    speech, _ = soundfile.read(SPEECH, dtype="float32")
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    return [(speech + level * noise, speech) for level in (1, 4)]


@pytest.mark.parametrize("name", ["si_sdr", "log_mel_distance", "pesq_wb", "stoi"])
def test_a_module_gives_the_mean_of_the_function(name, pairs, tmp_path):
    rate = () if name == "si_sdr" else (16000,)
    expected = np.mean([getattr(metrics, name)(audio, target, *rate) for audio, target in pairs])
    metric = evaluate.load(module(name), cache_dir=tmp_path)
    for audio, target in pairs:
        metric.add(prediction=audio, reference=target)
    assert metric.compute(sampling_rate=16000) == {name: pytest.approx(expected, rel=1e-4)}
    # Too short to measure is left out of the mean.
    if name == "stoi":
        both = [*zip(*pairs, strict=True)]
        short = np.zeros(800, np.float32)
        scores = metric.compute(predictions=[*both[0], short], references=[*both[1], short])
        assert scores == {name: pytest.approx(expected, rel=1e-4)}


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(ValueError, match="no metric 'psnr'; there is: log_mel_distance, pesq_wb, si_sdr, stoi"):
        module("psnr")

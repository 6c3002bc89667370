"""DAC's files, which hold the arguments that their model was built with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codec_lm_hf import AutoCodecModel
from codec_lm_hf.conversion_scripts import ConversionError, convert
from codec_lm_hf.conversion_scripts.dac import config_from_original

CASE = Path(__file__).parents[1] / "parity" / "cases" / "dac" / "stereo_latent"
CHECKPOINT = CASE / "weights.pth"
CONFIG = json.loads((CASE / "case.json").read_text())["config"]


def test_a_file_says_how_its_model_was_built(tmp_path):
    model = AutoCodecModel.from_pretrained(convert("dac", CHECKPOINT, tmp_path / "out"))
    expected = config_from_original(CONFIG)
    # The original stores no dropout.
    expected.quantizer_dropout = 0.0
    assert {name: getattr(model.config, name) for name in CONFIG if hasattr(model.config, name)} == {
        name: getattr(expected, name) for name in CONFIG if hasattr(expected, name)
    }
    for name in ("downsampling_ratios", "upsampling_ratios", "hidden_size", "sampling_rate", "quantizer_dropout"):
        assert getattr(model.config, name) == getattr(expected, name), name


def test_what_is_said_of_it_counts_more(tmp_path):
    given = AutoCodecModel.from_pretrained(convert("dac", CHECKPOINT, tmp_path / "given", config=CONFIG))
    assert given.config.quantizer_dropout == CONFIG["quantizer_dropout"]
    with pytest.raises(ConversionError, match="the checkpoint does not fit the configuration|unknown to this family"):
        convert("dac", CHECKPOINT, tmp_path / "preset", preset="dac_16khz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda container: container["state_dict"], "has no `state_dict`; give a file of DAC's own"),
        (lambda container: {"state_dict": container["state_dict"]}, "does not say how its model was built; give"),
        (lambda container: container | {"metadata": {"kwargs": 5}}, "does not say how its model was built; give"),
        (lambda container: container | {"metadata": {"kwargs": {"depth": 5}}}, "has no field 'depth'"),
    ],
)
def test_other_files_are_refused(change, message, tmp_path):
    torch.save(change(torch.load(CHECKPOINT, weights_only=True)), tmp_path / "weights.pth")
    with pytest.raises(ConversionError, match=message):
        convert("dac", tmp_path / "weights.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()

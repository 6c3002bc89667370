"""docs/generate.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile
import torch

from codec_lm_hf.demo.roundtrip import SPEECH
from tests.common.tiny_lm import TINY_LM
from tests.processing.test_pipeline import speaking

PAGE = (Path(__file__).parents[2] / "docs" / "generate.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What the page's Python leaves, all of it run in one scope."""
    folder = tmp_path_factory.mktemp("page")
    speaking(folder / "valle")
    for part in TINY_LM["musicgen"].pair():
        part.save_pretrained(folder / "my-musicgen")
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    scope: dict = {"speech": audio[:rate], "rate": rate}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
            exec(compile(block, "docs/generate.md", "exec"), scope)
    return scope


def test_codes_and_waves(left):
    assert left["codes"].shape == (2, 4, 40)
    hop = left["processor"].codec.config.hop_length
    assert [wave.shape for wave in left["waves"]] == [(1, 40 * hop)] * 2
    assert left["more"].shape[-1] == 10 and left["long"].shape[-1] == 60
    found = left["found"]
    assert found.codes_mask.all() and not found.stopped.any() and found.scores[0].shape == (2, 4, 20)


def test_the_stream_is_the_same_music(left):
    """The model's own options are those of the first example: it samples among 250."""
    assert len(left["pieces"]) > 1
    torch.testing.assert_close(torch.cat(left["pieces"], dim=-1), left["waves"][0], atol=2e-5, rtol=1e-4)


def test_the_pipeline_spoke(left):
    assert left["said"]["sampling_rate"] == 16000 and left["said"]["audio"].shape[0] > 0


def test_the_model_is_one_for_another_codec(left):
    config = left["model"].config
    assert (config.num_codebooks, config.codebook_size, list(config.delays)) == (6, 24, [0, 1, 2, 3, 4, 5])

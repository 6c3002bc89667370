"""docs/musicgen.md does what it says, line by line, on a tiny original of the parity cases and captioned clips."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTextToWaveform
from typer.testing import CliRunner

from codec_lm_hf.cli import app
from tests.common.tiny_text import tiny_text_encoder, tiny_tokenizer

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "musicgen.md").read_text(encoding="utf-8")
CAPTIONED = PROJECT / "tests" / "training" / "captioned"
CAPTIONS = [json.loads(line)["text"] for line in (CAPTIONED / "metadata.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What the page's Python leaves, all of it run in one scope, and the folder of its files."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(PROJECT / "tests" / "parity" / "cases" / "musicgen" / "text_mono", folder / "musicgen-small")
    shutil.copytree(CAPTIONED, folder / "recordings")
    tokenizer = tiny_tokenizer([*CAPTIONS, "a calm piano tune"])
    tokenizer.save_pretrained(folder / "t5-base")
    tiny_text_encoder(768, len(tokenizer)).save_pretrained(folder / "t5-base")
    scope: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        for block, line in re.findall(r"```python\n(.*?)```|^    codec-lm (.*?)$", PAGE, re.S | re.M):
            if block:
                torch.manual_seed(0)
                exec(compile(block, "docs/musicgen.md", "exec"), scope)
            else:
                assert CliRunner().invoke(app, shlex.split(line), catch_exceptions=False).exit_code == 0, line
        yield scope, folder


def test_it_plays_and_goes_on(done):
    scope, folder = done
    rate, hop = 3200, 32  # of the tiny original
    audio, found = soundfile.read(folder / "tune.wav")
    assert found == rate and audio.shape == (2 * rate,) and np.abs(audio).max() > 0
    assert [wave.shape for wave in scope["waves"]] == [(1, 100 * hop)] * 2
    assert scope["inputs"]["attention_mask"].shape[0] == 1
    assert scope["longer"].shape == (1, 50 * hop)


def test_native_layout_plays_the_same(done):
    scope, _ = done
    assert type(scope["theirs"]).__name__ == "MusicgenForConditionalGeneration"
    ours = scope["processor"].decode(scope["same"])
    torch.testing.assert_close(scope["audio"][0], ours, atol=1e-5, rtol=1e-4)


def test_lora_trains_its_adapters_alone_and_the_loss_falls(done):
    scope, folder = done
    adapted, batch = scope["adapted"].eval(), scope["processor"].pad(scope["examples"])
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    original = load_file(folder / "my-musicgen" / "model.safetensors")
    own = {name.replace(".base_layer", ""): value for name, value in adapted.get_base_model().state_dict().items()}
    assert all(torch.equal(own[name], value) for name, value in original.items())
    with torch.no_grad():
        after = adapted(**batch).loss
        with adapted.disable_adapter():
            before = adapted(**batch).loss
    assert after < before - 0.3


def test_adapters_come_back_from_their_file(done):
    from peft import PeftModel

    scope, folder = done
    saved = load_file(folder / "musicgen-lora" / "adapter_model.safetensors")
    assert saved and all("lora_" in name for name in saved)
    fresh = AutoModelForTextToWaveform.from_pretrained(folder / "my-musicgen")
    loaded = PeftModel.from_pretrained(fresh, folder / "musicgen-lora").eval()
    batch = scope["processor"].pad(scope["examples"])
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).loss, scope["adapted"].eval()(**batch).loss)
    merged, given = loaded.merge_and_unload(), {name: batch[name] for name in ("input_ids", "attention_mask")}
    codes = [model.generate(**given, do_sample=False, max_new_tokens=5) for model in (merged, scope["adapted"])]
    assert torch.equal(*codes)
    merged.save_pretrained(folder / "merged")
    again = AutoModelForTextToWaveform.from_pretrained(folder / "merged")
    assert torch.equal(again.generate(**given, do_sample=False, max_new_tokens=5), codes[0])

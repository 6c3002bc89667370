"""docs/train_lm.md does what it says, from recordings on: its commands and its Python, in one folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

import codec_lm_hf
from codec_lm_hf.cli import app
from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.training.lm_recipe import read_recipe
from codec_lm_hf.training.recipe_base import RecipeError

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "train_lm.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    codec-lm (.*)$", PAGE, re.M)
TEXTS = ["one", "two", "one two", "two one"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the page's Python leaves, all of it run in one scope after the commands, and the folder of both."""
    folder = tmp_path_factory.mktemp("page")
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    (folder / "recordings").mkdir()
    for number, text in enumerate(TEXTS):
        piece = audio[number * rate // 2 :][: rate // 2 + number * 1000]
        soundfile.write(folder / "recordings" / f"{number}.wav", piece, rate)
        (folder / "recordings" / f"{number}.txt").write_text(text)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (folder / "valle.yaml").write_text(recipe)
    scope: dict = {"speech": audio[:rate], "rate": rate}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        for command in COMMANDS:
            done = CliRunner().invoke(app, shlex.split(command))
            assert done.exit_code == 0, (command, done.output, done.exception)
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
            if "get_peft_model" in block:
                scope["before"] = {name: value.clone() for name, value in scope["model"].state_dict().items()}
            exec(compile(block, "docs/train_lm.md", "exec"), scope)
    return scope, folder


def test_the_commands_train_and_speak(trained):
    _, folder = trained
    assert len(COMMANDS) == 3
    output = folder / "runs" / "valle"
    steps = sorted(path.name for path in output.glob("checkpoint-*"))
    assert steps == ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
    assert codec_lm_hf.ValleForConditionalGeneration.from_pretrained(output).config.num_codebooks == 4
    # Known by its name, the bundled codec does not go along.
    assert codec_lm_hf.ValleProcessor.from_pretrained(output).codec_name == "bundled:codec"
    assert not (output / "codec").exists()
    for step in (10, 20, 30):
        rows = (output / "samples" / f"step-{step}" / "table.jsonl").read_text().splitlines()
        assert [json.loads(row)["text"] for row in rows] == [TEXTS[0], TEXTS[2]]


def test_the_fields_of_the_table_are_those_that_there_are(tmp_path):
    """What stands in it as code, but for values, is known to `read_recipe`, and nothing else is."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.M))
    assert list(rows) == ["model", "processor", "data", "training", "evaluation"]
    for section in ("data", "evaluation"):
        path = tmp_path / f"{section}.yaml"
        known = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
        known[section]["nothing"] = 1
        path.write_text(yaml.safe_dump(known))
        with pytest.raises(RecipeError) as refused:
            read_recipe(path)
        names = set(str(refused.value).partition("known: ")[2].rstrip(".").split(", "))
        told = set(re.findall(r"`(\w+)`", rows[section]))
        if section == "data":
            # The rest is told below the table.
            told |= {"inputs", "targets", "prompt", "join"} & set(re.findall(r"^- `(\w+)", PAGE, re.M))
        assert names <= told, section


def test_a_plain_trainer_trains_and_saves_what_speaks(trained):
    scope, folder = trained
    assert scope["codes"].shape[:2] == (1, 8)
    frames = scope["codes"].shape[-1]
    assert scope["waveform"].shape == (1, frames * 320) and np.isfinite(scope["waveform"]).all()
    model = codec_lm_hf.ValleForConditionalGeneration.from_pretrained(folder / "valle")
    for name, value in model.state_dict().items():
        assert torch.equal(value, scope["before"][name]), name
    processor = codec_lm_hf.ValleProcessor.from_pretrained(folder / "valle")
    assert processor.symbols == scope["processor"].symbols


def test_the_loss_falls(trained):
    scope, _ = trained
    torch.manual_seed(0)
    fresh = codec_lm_hf.ValleForConditionalGeneration(scope["config"]).eval()
    spoken = codec_lm_hf.ValleForConditionalGeneration.from_pretrained(trained[1] / "valle")
    batch = scope["processor"].pad(scope["examples"])
    with torch.no_grad():
        assert spoken(**batch).loss < fresh(**batch).loss - 0.5


def test_lora_trains_its_adapters_alone(trained):
    scope, folder = trained
    adapted = scope["adapted"]
    trainable = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    layers = scope["config"].num_hidden_layers
    assert sum("in_proj.lora_B" in name for name in trainable) == 2 * layers
    # Fresh adapters have B = 0, so that they change nothing: each B must have learnt.
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            assert weight.any(), name
    own = adapted.get_base_model().state_dict()
    for name, value in scope["before"].items():
        place = re.sub(r"(in_proj|out_proj)\.(weight|bias)", r"\1.base_layer.\2", name)
        assert torch.equal(own[place], value), name
    saved = load_file(folder / "valle-lora" / "adapter_model.safetensors")
    assert saved and all("lora_" in name for name in saved)


def test_lora_changes_what_is_said_and_comes_back_from_its_file(trained):
    from peft import PeftModel

    scope, folder = trained
    batch = scope["processor"].pad(scope["examples"][:1])

    def loss(model):
        with torch.no_grad():
            return model(**batch).loss

    with scope["adapted"].disable_adapter():
        without = loss(scope["adapted"].eval())
    adapted = loss(scope["adapted"])
    assert not torch.isclose(without, adapted, atol=1e-6)
    plain = codec_lm_hf.ValleForConditionalGeneration.from_pretrained(folder / "valle")
    torch.testing.assert_close(loss(plain), without)
    loaded = PeftModel.from_pretrained(plain, folder / "valle-lora").eval()
    torch.testing.assert_close(loss(loaded), adapted)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(loss(merged), adapted, atol=1e-4, rtol=1e-4)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    given["prompt_codes"] = batch["labels"][..., :5]
    codes = [model.generate(**given, do_sample=False, max_new_tokens=5) for model in (merged, scope["adapted"])]
    assert torch.equal(*codes)

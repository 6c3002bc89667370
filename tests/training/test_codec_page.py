"""docs/train_codec.md does what it says: its commands and its Python, in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import codec_lm_hf
from codec_lm_hf.cli import app
from codec_lm_hf.modeling.discriminators import CodecDiscriminator
from codec_lm_hf.training.codec_recipe import read_recipe
from codec_lm_hf.training.recipe_base import RecipeError
from tests.training.helpers import write_recordings

PAGE = (Path(__file__).parents[2] / "docs" / "train_codec.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    codec-lm (.*)$", PAGE, re.M)
(RECIPE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the page's Python leaves, run after its commands, and the folder of both."""
    folder = tmp_path_factory.mktemp("page")
    for part in ("train", "validation"):
        write_recordings(folder / "DATA" / "speech" / part, 4, seconds=0.6)
    (folder / "codec.yaml").write_text(RECIPE)
    scope: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            done = CliRunner().invoke(app, shlex.split(command))
            assert done.exit_code == 0, (command, done.output, done.exception)
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
            exec(compile(block, "docs/train_codec.md", "exec"), scope)
    return scope, folder


def test_the_commands_leave_what_the_page_says(trained):
    runs = trained[1] / "runs"
    assert len(COMMANDS) == 3
    steps = {path.name for path in (runs / "codec").glob("checkpoint-*")}
    assert steps == {"checkpoint-10", "checkpoint-20", "checkpoint-30"}
    for output in ("codec", "tuned", "by-hand"):
        codec_lm_hf.AutoCodecModel.from_pretrained(runs / output)
        codec_lm_hf.CodecFeatureExtractor.from_pretrained(runs / output)
        CodecDiscriminator.from_pretrained(runs / output / "discriminator")
    written = {path.name for path in (runs / "codec" / "samples" / "step-10").iterdir()}
    assert {"0-original.wav", "0-decoded.wav", "0.png"} <= written


def test_the_scores_are_those_that_the_page_names(trained):
    scores = {name for name in trained[0]["scores"] if not re.search("runtime|per_second|epoch", name)}
    told = re.search(r"reports (.*?); each", PAGE, re.S)[1]
    assert scores == set(re.findall(r"`(eval_\w+)`", told))


def unknown(folder: Path, section: str) -> set[str]:
    """The names that a recipe's error lists for a field, or a section, that there is not."""
    recipe = yaml.safe_load(RECIPE)
    (recipe[section] if section else recipe)["nothing"] = {}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError) as refused:
        read_recipe(folder / "recipe.yaml")
    return set(str(refused.value).partition("known: ")[2].rstrip(".").split(", "))


def test_the_tables_have_every_section_and_every_field_of_data(tmp_path):
    sections, fields = re.findall(r"^\|.*?\n\|-.*?\n(.*?)\n\n", PAGE, re.S | re.M)
    assert set(re.findall(r"^\| `(\w+)`", sections, re.M)) == unknown(tmp_path, "")
    names = {name for row in re.findall(r"^\| (.*?) \|", fields, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert names == unknown(tmp_path, "data")

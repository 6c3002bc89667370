"""The README does what it says: its code runs, its commands run, its table is the registry's."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import codec_lm_hf
from codec_lm_hf.cli.list import markdown_table
from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.registry import FAMILIES

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the `speech.wav` that the examples work on."""
    import soundfile

    audio, rate = soundfile.read(SPEECH)
    soundfile.write(tmp_path / "speech.wav", audio, rate)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.S | re.M)[1]


def test_the_python_examples_run(folder):
    blocks = re.findall(r"```python\n(.*?)```", section("Use"), re.S)
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    rate, codes, audio = scope["rate"], scope["codes"].audio_codes, scope["audio"]
    assert codes.shape[:2] == (2, 4)
    assert audio.shape == scope["inputs"]["input_values"].shape
    assert not audio[1, :, rate:].any()


def test_the_commands_run(folder):
    """Those on a recording, one after the other, in one folder."""
    commands = [line.strip() for line in section("Command line").splitlines() if line.startswith("    codec-lm ")]
    run = [command for command in commands if " convert " not in command]
    assert len(run) == 4
    for command in run:
        program, *arguments = shlex.split(command)
        assert program == "codec-lm"
        subprocess.run([sys.executable, "-m", "codec_lm_hf.cli", *arguments], check=True, capture_output=True)
    assert (folder / "back.wav").stat().st_size == (folder / "speech.wav").stat().st_size
    written = {path.name for path in (folder / "measured").iterdir()}
    assert written == {"original.wav", "reconstructed.wav", "codes.safetensors", "roundtrip.png"}


def test_the_bundled_model_speaks_as_the_readme_says(folder):
    pytest.importorskip("gruut", reason="the model reads phonemes: pip install '.[gruut]'")
    (command,) = [line.strip() for line in section("Language models").splitlines() if "codec-lm generate" in line]
    _, *arguments = shlex.split(command)
    subprocess.run([sys.executable, "-m", "codec_lm_hf.cli", *arguments], check=True, capture_output=True)
    assert (folder / "out.wav").stat().st_size > 16000


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\(([^)#:]+)\)|(recipes/[a-z_0-9]+\.yaml)", README):
        assert (PROJECT / (name[0] or name[1])).exists(), name


def test_make_targets_that_the_readme_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named and named <= targets


def test_the_table_of_families_is_the_registry_s():
    start, end = "<!-- families: codec-lm list --markdown -->\n", "\n<!-- end of families -->"
    assert README.split(start)[1].split(end)[0] == markdown_table()


def test_the_figures_of_the_bundled_codec_are_those_that_the_benchmark_wrote():
    metrics = json.loads((Path(codec_lm_hf.bundled("codec")) / "metrics.json").read_text())
    card = (Path(codec_lm_hf.bundled("codec")) / "README.md").read_text()
    for text in (section("Measured"), card):
        for row in metrics["quality"]:
            cells = [f"{row[name]:.2f}" for name in ("kbps", "kbps_on_disk", "si_sdr", "log_mel_distance", "pesq_wb")]
            cells += [f"{row['stoi']:.3f}", f"{row['visqol']:.2f}"]
            assert f"| {' | '.join(cells)} |" in text
        for row in metrics["speech"]:
            cells = [f"{row['wer']:.1%}", f"{row['exact']:.0%}", f"{row['speaker_nearest']:.0%}"]
            cells.append(f"{row['speaker_cosine']:.2f}")
            assert f"| {' | '.join(cells)} |" in text


def test_the_figures_of_the_speaking_model_are_those_that_the_benchmark_wrote():
    folder = Path(codec_lm_hf.bundled("tts"))
    rows = json.loads((folder / "metrics.json").read_text())["speech"]
    card = (folder / "README.md").read_text()
    for row in rows:
        cells = [f"{row['wer']:.1%}", f"{row['wer_by_sound']:.1%}", f"{row['exact']:.0%}"]
        cells.append(f"{row['speaker_nearest']:.0%}")
        cells.append(f"{row['speaker_cosine']:.2f}")
        assert all(f"| {' | '.join(cells)} |" in text for text in (section("Measured"), card))
        for rates in (row["kinds"], row["kinds_by_sound"]):
            assert f"| {' | '.join(f'{rate:.1%}' for rate in rates.values())} |" in card
    said = [row for row in rows if "length" in row]
    assert {row["name"] for row in said} == {"bundled", "bundled, int8"}
    for row in said:
        cells = f"| {row['length']:.2f} | {row['longest']:.2f} | {row['speed']:.1f} |"
        assert cells in section("Measured") and cells in card


@pytest.mark.parametrize("name", [row.name for row in FAMILIES])
def test_every_family_has_a_page(name):
    assert (PROJECT / "docs" / f"{name}.md").is_file()


def test_the_discriminators_page_runs():
    page = (PROJECT / "docs/discriminator.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope = {"audio": torch.randn(1, 1, 4000)}
    exec(compile(block, "discriminator.md", "exec"), scope)
    assert len(scope["judgement"].logits) == 3

"""The Python of every page runs for a reader who starts there: imports stand on the page, and the short pages run."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec_lm_hf.demo.roundtrip import SPEECH
from tests.common.tiny import TINY

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
# What the text around the blocks says that the reader has.
GIVEN = {
    "discriminator": {"audio"},
    "funcodec": {"inputs", "phonemes"},
    "generate": {"rate", "speech"},
    "speechtokenizer": {"codec", "inputs"},
    "train_lm": {"rate", "speech"},
    "valle": {"prompt", "rate", "speech", "symbols"},
}


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


def names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """What a block defines, and what it uses."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.FunctionDef):
            defined.add(node.name)
    return defined, used


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_imports_what_it_uses(page):
    known = set(dir(builtins)) | GIVEN.get(page.stem, set())
    for block in blocks(page):
        defined, used = names(ast.parse(block))
        known |= defined
        assert used <= known, f"{page.name} uses {sorted(used - known)}, which it neither imports nor defines"
        # In a process of its own, transformers knows our classes only once this package was imported.
        if re.search(r"\bAuto[A-Z]\w+\.from_pretrained|\bpipeline\(", block):
            assert "codec_lm_hf" in known, f"{page.name} loads by transformers' names before it imports codec_lm_hf"


def save(name: str, folder: str, **fields) -> None:
    TINY[name].model(**fields).save_pretrained(folder)
    TINY[name].feature_extractor().save_pretrained(folder)


def speech(seconds: float) -> torch.Tensor:
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    return torch.from_numpy(audio[: round(seconds * rate)])


def audiodec() -> dict:
    save("audiodec-vocoder", "audiodec-v1")
    save("audiodec", "denoise")
    return {}


def dac() -> dict:
    save("dac", "descript/dac_16khz")
    return {}


def encodec() -> dict:
    save("encodec", "facebook/encodec_24khz")
    return {}


def funcodec() -> dict:
    return {"inputs": {"input_values": speech(0.5)[None, None]}, "phonemes": torch.randint(86, (1, 50))}


def speechtokenizer() -> dict:
    return {"inputs": {"input_values": speech(0.5)[None, None]}, "codec": TINY["speechtokenizer"].model()}


SHORT = (audiodec, dac, encodec, funcodec, speechtokenizer)


@pytest.mark.parametrize("prepare", SHORT, ids=lambda prepare: prepare.__name__)
def test_the_python_of_a_family_s_page_runs(prepare, tmp_path, monkeypatch):
    """On tiny models in the place of those that it names."""
    monkeypatch.chdir(tmp_path)
    scope = prepare()
    assert scope.keys() == GIVEN.get(prepare.__name__, set())
    found = blocks(PROJECT / "docs" / f"{prepare.__name__}.md")
    assert found
    for block in found:
        exec(compile(block, f"docs/{prepare.__name__}.md", "exec"), scope)


def test_the_page_on_codecs_does_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    soundfile.write("speech.wav", audio[: 2 * rate], rate)
    scope: dict = {}
    with torch.no_grad():
        for block in blocks(PROJECT / "docs" / "codec.md"):
            exec(compile(block, "docs/codec.md", "exec"), scope)
    codes, low = scope["codes"].audio_codes, scope["low"]
    assert torch.equal(low, scope["same"]) and torch.equal(low, scope["cut"])
    assert scope["audio"].shape == scope["inputs"]["input_values"].shape
    four = scope["again"].decode(codes[:1, :4]).audio_values
    torch.testing.assert_close(torch.cat(scope["heard"], dim=-1), four, atol=1e-5, rtol=1e-4)
    back = torch.from_numpy(np.concatenate(scope["back"], axis=1))
    torch.testing.assert_close(back, scope["audio"][0], atol=1e-5, rtol=1e-4)
    assert {"si_sdr", "log_mel_distance"} <= scope["scores"].keys()

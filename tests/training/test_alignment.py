"""When symbols are said: known segmentations are found again, paths are the best ones, and a folder gets durations."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import codec_lm_hf
from codec_lm_hf.cli import app
from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.processing.text import BEGIN, END
from codec_lm_hf.training import alignment
from codec_lm_hf.training.alignment import add_durations, best_paths, find_durations
from codec_lm_hf.training.labelled import load_labelled
from codec_lm_hf.training.tokenize import read_codes, read_header, tokenize, write_codes

PROJECT = Path(__file__).parents[2]


def spoken(count: int, noise: float, seed: int = 0) -> tuple[list, list, list]:
    """Features, texts and true durations of random words, whose letters sound otherwise beside some letters."""
    rng = np.random.default_rng(seed)
    letters, pause = "abcdefgh", rng.standard_normal(12) * 2
    sounds = {letter: rng.standard_normal(12) * 2 for letter in letters}
    after = {letter: rng.standard_normal(12) for letter in letters}
    features, texts, truth = [], [], []
    for _ in range(count):
        words = ["".join(rng.choice(list(letters), rng.integers(1, 5))) for _ in range(3)]
        text = [BEGIN, *"_".join(words), END]
        durations, means = [], []
        for before, symbol in itertools.pairwise(["", *text]):
            letter = symbol in letters
            durations.append(int(rng.integers(1, 7)) if letter or symbol in (BEGIN, END) else int(rng.integers(0, 3)))
            means.append(sounds[symbol] + after.get(before, 0) if letter else pause)
        frames = np.repeat(means, durations, axis=0)
        features.append(torch.tensor(frames + noise * rng.standard_normal(frames.shape), dtype=torch.float32))
        texts.append(text)
        truth.append(durations)
    return features, texts, truth


def ends(durations: list) -> np.ndarray:
    return np.concatenate([np.cumsum(row) for row in durations])


def test_a_known_segmentation_is_found():
    features, texts, truth = spoken(150, noise=0.5)
    found = find_durations(features, texts)
    wrong = np.abs(ends(found) - ends(truth))
    assert (wrong == 0).mean() > 0.95 and wrong.mean() < 0.1
    # Which spreading them evenly, as the search begins, does not do.
    evenly = find_durations(features, texts, iterations=0)
    assert np.abs(ends(evenly) - ends(truth)).mean() > 1


def test_sounds_that_depend_on_their_neighbours_need_context():
    features, texts, truth = spoken(150, noise=0.5)
    errors = [np.abs(ends(find_durations(features, texts, context)) - ends(truth)).mean() for context in (0, 1)]
    assert errors[1] < errors[0] / 2


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_durations_fit_their_recordings(data):
    texts = data.draw(st.lists(st.lists(st.sampled_from("ab_,?"), min_size=1, max_size=8), min_size=1, max_size=4))
    texts = [[BEGIN, *text, END] for text in texts]
    lengths = [data.draw(st.integers(len(text), 30)) for text in texts]
    passed_over = data.draw(st.integers(0, 3))
    features = [torch.randn(length, 3, generator=torch.Generator().manual_seed(length)) for length in lengths]
    found = find_durations(features, texts, passed_over=passed_over, iterations=2)
    for text, durations, length in zip(texts, found, lengths, strict=True):
        assert len(durations) == len(text) and sum(durations) == length and durations[0] and durations[-1]
        assert all(frames for symbol, frames in zip(text, durations, strict=True) if symbol in "ab")
        runs = [len(list(run)) for empty, run in itertools.groupby(durations, lambda frames: not frames) if empty]
        assert max(runs, default=0) <= passed_over


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.lists(st.booleans(), max_size=3), st.integers(0, 4))
def test_no_path_is_better_than_the_best(seed, middle, more):
    needed = torch.tensor([True, *middle, True])
    frames, symbols = int(needed.sum()) + more, len(needed)
    score = torch.randn(frames, symbols, generator=torch.Generator().manual_seed(seed))
    best = max(
        (
            durations
            for durations in itertools.product(range(frames + 1), repeat=symbols)
            if sum(durations) == frames and all(d or not n for d, n in zip(durations, needed, strict=True))
        ),
        key=lambda durations: float(score[range(frames), np.repeat(range(symbols), durations)].sum()),
    )
    # Beside a longer one, so that it is padded.
    other = torch.zeros(frames + 3, symbols + 2)
    found = best_paths([score, other], [needed, torch.ones(symbols + 2, dtype=torch.bool)])
    assert found[0].tolist() == list(best)


def test_texts_longer_than_their_recordings_are_named():
    with pytest.raises(ValueError, match="recording 1 has 3 frames for 4 symbols"):
        find_durations([torch.randn(9, 2), torch.randn(3, 2)], [[BEGIN, "a", END], [BEGIN, "a", "_", "b", END]])
    with pytest.raises(ValueError, match="1 recordings for 2 texts"):
        find_durations([torch.randn(9, 2)], [[BEGIN, END]] * 2)


# --- data sets -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four recordings with texts and a speaker, as codes; the bundled codec."""
    folder = tmp_path_factory.mktemp("aligned")
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    (folder / "recordings").mkdir()
    lines = ["file_name,text,speaker"]
    for number, text in enumerate(["one", "two", "one two", "two one"]):
        soundfile.write(folder / "recordings" / f"{number}.wav", audio[number * rate :][: rate + number * 1000], rate)
        lines.append(f"{number}.wav,{text},a")
    (folder / "recordings" / "metadata.csv").write_text("\n".join(lines))
    codec = codec_lm_hf.AutoCodecModel.from_pretrained(codec_lm_hf.bundled("codec")).eval()
    codec.config.name_or_path = "bundled:codec"
    tokenize(codec, load_labelled(folder / "recordings"), folder / "codes", num_quantizers=4)
    return folder, codec


def test_the_section_of_the_page_does_what_it_says(folder, monkeypatch):
    page = (PROJECT / "docs" / "valle.md").read_text(encoding="utf-8")
    section = page.split("## Monotonic alignment")[1].split("\n## ")[0]
    monkeypatch.chdir(folder[0])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder[0] / "cache")
    (command,) = re.findall(r"^    codec-lm (.*)$", section, re.M)
    done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
    assert done.exit_code == 0 and "aligned: 4 recordings aligned" in done.output
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    scope: dict = {"speech": audio[:rate], "rate": rate}
    (block,) = re.findall(r"```python\n(.*?)```", section, re.S)
    exec(compile(block, "docs/valle.md", "exec"), scope)
    assert int(scope["spoken"].durations.sum()) == scope["spoken"].sequences.shape[-1]
    # What was there is there, and how it was made.
    rows, before = read_codes(folder[0] / "aligned"), read_codes(folder[0] / "codes")
    assert rows.remove_columns("durations").to_dict() == before.to_dict()
    assert read_header(folder[0] / "aligned") == read_header(folder[0] / "codes")
    for row in rows:
        assert len(row["durations"]) == len(row["text"]) + 2 and sum(row["durations"]) == row["num_frames"]


def test_what_fewer_bits_cost_the_bundled_speaking_model_is_measured(folder, tmp_path, monkeypatch):
    """`benchmarks/lm_speed.py --checkpoint` with codes and durations."""
    codes = folder[0] / "codes"
    write_codes(add_durations(read_codes(codes), folder[1], "gruut"), codes, tmp_path / "out")
    monkeypatch.syspath_prepend(PROJECT / "benchmarks")
    whole, *fewer = importlib.import_module("lm_speed").quality(codec_lm_hf.bundled("tts"), tmp_path / "out", limit=3)
    assert (whole["recordings"], whole["change"], whole["same_codes"]) == (3, 0, 1)
    for row in fewer:
        assert 0 < abs(row["change"]) < 0.05 * whole["loss"] and 0.8 < row["same_codes"] <= 1


def test_what_a_data_set_lacks_is_named(folder):
    rows, codec = read_codes(folder[0] / "codes"), folder[1]
    with pytest.raises(ValueError, match="no column phonemes; it has id, codes"):
        add_durations(rows, codec, "ipa", "phonemes")
    with pytest.raises(ValueError, match="the column 'num_frames' has no texts, but Value"):
        add_durations(rows, codec, text_column="num_frames")
    with pytest.raises(ValueError, match="frontend must be one of 'graphemes', .* got 'runes'"):
        add_durations(rows, codec, "runes")
    with pytest.raises(ValueError, match=r"rows \[1\] have nothing in their column 'text'"):
        empty = rows.remove_columns("text").add_column("text", ["one", " ", "two", "one"])
        add_durations(empty, codec)
    with pytest.raises(ValueError, match="holds a data set of codes already"):
        write_codes(rows, folder[0] / "codes", folder[0] / "codes")
    with pytest.raises(FileNotFoundError, match="no data set made by codec-lm tokenize"):
        read_codes(folder[0] / "recordings")


def test_the_command_refuses_before_it_listens(folder, tmp_path, monkeypatch):
    """That takes hours for a large corpus; and a codec that is not here is named, not looked for on the Hub."""
    monkeypatch.setattr(alignment, "add_durations", lambda *_: pytest.fail("it listens"))
    shutil.copytree(folder[0] / "codes", tmp_path / "codes")
    (tmp_path / "file").touch()
    codes = str(tmp_path / "codes")

    def align(name: str) -> None:
        CliRunner().invoke(app, ["align", codes, "-o", str(tmp_path / name)], catch_exceptions=False)

    with pytest.raises(ValueError, match="holds a data set of codes already: name another folder"):
        align("codes")
    with pytest.raises(FileExistsError, match="file"):
        align("file")
    info = tmp_path / "codes" / "dataset_info.json"
    info.write_text(info.read_text().replace("bundled:codec", "/moved/codec"))
    with pytest.raises(ValueError, match="by the codec '/moved/codec', which is not here; name a copy"):
        align("new")
    assert not (tmp_path / "new").exists()

"""`codec-lm generate`: what the Python API says, as a file."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForTextToWaveform, AutoProcessor
from typer.testing import CliRunner

import codec_lm_hf
from codec_lm_hf import ValleConfig, ValleForConditionalGeneration, ValleProcessor
from codec_lm_hf.cli import app
from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.processing.audio import load_audio
from tests.common.tiny_lm import TINY_LM
from tests.common.tiny_text import tiny_tokenizer
from tests.modeling.test_musicgen import FRAMES, KINDS, native_codes, native_model

TEXT = "one two"


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A directory with a tiny model, not trained, its processor and the bundled codec; and a prompt."""
    folder = tmp_path_factory.mktemp("valle")
    torch.manual_seed(0)
    symbols = ValleProcessor.symbols_of([TEXT])
    fields = {**TINY_LM["valle"].fields, "vocab_size": len(symbols), "codebook_size": 1024, "num_codebooks": 3}
    ValleForConditionalGeneration(ValleConfig(**fields)).save_pretrained(folder)
    processor = ValleProcessor(symbols, num_codebooks=3)
    processor.codec = codec_lm_hf.AutoCodecModel.from_pretrained(codec_lm_hf.bundled("codec"))
    processor.save_pretrained(folder)
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    soundfile.write(folder / "prompt.wav", audio[: rate // 2], rate)
    return folder


def run(folder, name, *options):
    arguments = ["generate", "--model", str(folder), "--text", TEXT, "--prompt", str(folder / "prompt.wav")]
    arguments += ["-o", str(folder / name), "--max-seconds", "0.4", *options]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def heard(folder, name):
    return soundfile.read(folder / name, dtype="float32")


def test_the_file_holds_what_the_python_api_gives(speaking):
    assert run(speaking, "out.wav", "--temperature", "0").exit_code == 0
    audio, rate = heard(speaking, "out.wav")
    processor = ValleProcessor.from_pretrained(speaking)
    model = ValleForConditionalGeneration.from_pretrained(speaking).eval()
    prompt, _ = soundfile.read(speaking / "prompt.wav", dtype="float32")
    inputs = processor(TEXT, audio=prompt, sampling_rate=rate)
    expected = processor.decode(model.generate(**inputs, do_sample=False, max_new_tokens=20))[0]
    assert rate == 16000 and len(audio) == len(expected) > 0
    np.testing.assert_allclose(audio, np.clip(expected, -1, 1), atol=1e-4)


def test_seeds_and_options_of_sampling(speaking):
    for name, options in {
        "a.wav": ("--seed", "1"),
        "b.wav": ("--seed", "1"),
        "c.wav": ("--seed", "2"),
        "d.wav": ("--seed", "1", "--top-k", "1"),
        "e.wav": ("--temperature", "0"),
        "f.wav": ("--seed", "1", "--top-p", "0.00001"),
    }.items():
        assert run(speaking, name, *options).exit_code == 0
    a, b, c, d, e, f = (heard(speaking, f"{letter}.wav")[0] for letter in "abcdef")
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert np.array_equal(d, e) and np.array_equal(f, e)


def test_without_a_model_the_bundled_one_speaks_in_its_own_voice(tmp_path):
    """Or in another one, and offline: the tests reach no hub."""
    pytest.importorskip("gruut", reason="the bundled model reads phonemes: pip install '.[gruut]'")
    spoken = {}
    for name, options in {"own": (), "again": (), "other": ("--prompt", str(SPEECH))}.items():
        path = tmp_path / f"{name}.wav"
        CliRunner().invoke(app, ["generate", "--text", "one four", "-o", str(path), *options], catch_exceptions=False)
        spoken[name], rate = soundfile.read(path, dtype="float32")
        assert rate == 16000 and 0.3 < len(spoken[name]) / rate < 3 and np.abs(spoken[name]).max() > 0.05
    assert np.array_equal(spoken["own"], spoken["again"])
    assert not np.array_equal(spoken["own"], spoken["other"])


def test_without_a_prompt_the_model_says_that_it_needs_one(speaking, tmp_path):
    arguments = ["generate", "--model", str(speaking), "--text", TEXT, "-o", str(tmp_path / "a.wav")]
    with pytest.raises(ValueError, match="prompt_codes must have at least one frame"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "a.xyz"], "unknown audio format '.xyz'"),
        (["-o", "nowhere/a.wav"], "the folder nowhere does not exist"),
        (["-o", "."], "it is a folder"),
        (["-o", "a.wav", "--max-seconds", "0"], "--max-seconds 0: give a positive number"),
        (["-o", "a.wav", "--max-seconds", "-3"], "--max-seconds -3: give"),
        (["-o", "a.wav", "--max-seconds", "nan"], "--max-seconds nan: give"),
        (["-o", "a.wav", "--max-seconds", "inf"], "--max-seconds inf: give"),
    ],
)
def test_what_cannot_be_written_or_said_is_refused_before_anything_is_generated(
    options, message, speaking, tmp_path, monkeypatch
):
    monkeypatch.setattr(ValleForConditionalGeneration, "generate", lambda *_, **__: pytest.fail("it generates"))
    monkeypatch.chdir(tmp_path)
    arguments = ["generate", "--model", str(speaking), "--text", TEXT, "--prompt", str(speaking / "prompt.wav")]
    with pytest.raises((ValueError, OSError), match=message):
        CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module", params=["musicgen-stereo", "musicgen-melody", "audiogen"])
def playing(request, tmp_path_factory):
    """The name of a tiny model, not trained, and a directory with it, its processor, its codec, and a recording."""
    folder = tmp_path_factory.mktemp(request.param)
    for part in TINY_LM[request.param].pair():
        part.save_pretrained(folder)
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    soundfile.write(folder / "tune.wav", np.stack([audio[: rate // 2]] * 2, axis=1), rate)
    return request.param, folder


def test_other_families_play_what_the_python_api_gives(playing):
    name, folder = playing
    arguments = ["generate", "--model", str(folder), "--text", "dogs", "-o", str(folder / "out.wav")]
    arguments += ["--prompt", str(folder / "tune.wav"), "--max-seconds", "0.2", "--temperature", "0"]
    tune = folder / "tune.wav"
    given = {"melody": load_audio(tune, 800)[0]} if name == "musicgen-melody" else {}
    if given:
        arguments += ["--melody", str(tune)]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForTextToWaveform.from_pretrained(folder)
    inputs = processor("dogs", audio=load_audio(tune, 800)[0], **given)
    expected = processor.decode(model.generate(**inputs, do_sample=False, max_new_tokens=10))
    audio, rate = soundfile.read(folder / "out.wav", dtype="float32", always_2d=True)
    assert rate == 800 and audio.T.shape == expected.shape == (2 if name == "musicgen-stereo" else 1, 160)
    np.testing.assert_allclose(audio.T, np.clip(expected, -1, 1), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_transformers_own_play_what_they_play_there(kind, tmp_path):
    model, tokenizer = native_model(kind), tiny_tokenizer()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    arguments = ["generate", "--model", str(tmp_path), "--text", "dogs", "-o", str(tmp_path / "out.wav")]
    arguments += ["--max-seconds", str(FRAMES / 50), "--temperature", "0"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    _, expected = native_codes(model, FRAMES, **tokenizer(["dogs"], return_tensors="pt"))
    audio, rate = soundfile.read(tmp_path / "out.wav", dtype="float32", always_2d=True)
    assert rate == model.config.audio_encoder.sampling_rate and np.ptp(audio) > 0
    np.testing.assert_allclose(audio.T, expected[0].clamp(-1, 1), atol=1e-4)


def test_what_is_no_language_model_is_refused(tmp_path):
    arguments = ["generate", "--model", codec_lm_hf.bundled("codec"), "--text", TEXT, "-o", str(tmp_path / "no.wav")]
    with pytest.raises(ValueError, match="is no codec language model that this command can give a text"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_what_a_family_has_no_use_for_is_refused(playing, speaking):
    for folder, option, whose in ((playing[1], "--prompt-text", "MusicGen"), (speaking, "--melody", "Valle")):
        arguments = ["generate", "--model", str(folder), "--text", TEXT, option, "x.wav", "-o", str(folder / "no.wav")]
        with pytest.raises(ValueError, match=f"takes no {option}: {whose}"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert not (folder / "no.wav").exists()

"""The commands, run as a user runs them, with a tiny codec where the weights do not matter."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from codec_lm_hf.bitstream.codes import CodesReader
from codec_lm_hf.cli import app
from codec_lm_hf.registry import FAMILIES
from tests.common.tiny import TINY

runner = CliRunner()


def run(*arguments):
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    root = tmp_path_factory.mktemp("codecs")
    for name in ("encodec", "encodec-segments", "stft_codec"):
        TINY[name].model().save_pretrained(root / name)
    return root


@pytest.fixture
def speech(tmp_path):
    path = tmp_path / "speech.wav"
    seconds = np.arange(30000) / 22050
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * seconds), 22050)
    return path


def test_list_names_every_family():
    output = run("list")
    for row in FAMILIES:
        assert row.name in output
        for preset in row.load("config").presets:
            assert preset in output


@pytest.mark.parametrize("name", ["encodec", "encodec-segments", "stft_codec"])
def test_encode_and_decode_give_back_the_length_in_the_codec_format(name, codecs, speech, tmp_path):
    codes, back = tmp_path / "speech.codes", tmp_path / "back.wav"
    run("encode", speech, "-o", codes, "--codec", codecs / name)
    run("decode", codes, "-o", back)
    config = TINY[name].config()
    audio, rate = soundfile.read(back, always_2d=True)
    assert rate == config.sampling_rate and audio.shape[1] == config.audio_channels
    assert len(audio) == pytest.approx(30000 / 22050 * rate, abs=2)
    assert "frames:" in run("info", codes)


def test_files_equal_the_api(codecs, speech, tmp_path):
    """What the command writes block by block is what `encode` gives for the whole recording."""
    import torch

    import codec_lm_hf
    from codec_lm_hf.processing.audio import load_audio

    codes = tmp_path / "speech.codes"
    run("encode", speech, "-o", codes, "--codec", codecs / "encodec", "--bandwidth", 0.9)
    with codes.open("rb") as file:
        stored = np.concatenate([block for block, _ in CodesReader(file)], axis=1)
    model = codec_lm_hf.AutoCodecModel.from_pretrained(codecs / "encodec").eval()
    audio, _ = load_audio(speech, 24000, 1)
    ours = model.encode(torch.from_numpy(audio)[None], bandwidth=0.9).audio_codes[0].numpy()
    assert stored.shape == ours.shape
    assert (stored == ours).mean() > 0.99


def test_folders(codecs, speech, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.wav", "deep/b.wav"):
        (folder / name).write_bytes(speech.read_bytes())
    run("encode", folder, "-o", tmp_path / "codes", "--codec", codecs / "stft_codec")
    run("decode", tmp_path / "codes", "-o", tmp_path / "back")
    assert sorted(path.relative_to(tmp_path / "back").as_posix() for path in (tmp_path / "back").rglob("*.wav")) == [
        "a.wav",
        "deep/b.wav",
    ]


def command(*arguments, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "codec_lm_hf.cli", *map(str, arguments)], input=stdin, capture_output=True, check=False
    )


def test_standard_input_and_output(codecs, speech):
    encoded = command("encode", "-", "--codec", codecs / "encodec", stdin=speech.read_bytes())
    assert encoded.stdout[:4] == b"CLMC", encoded.stderr
    decoded = command("decode", "-", stdin=encoded.stdout)
    assert decoded.stdout[:4] == b"RIFF", decoded.stderr


@pytest.mark.parametrize(
    ("prepare", "arguments", "message"),
    [
        (lambda p: (p / "x.wav").write_bytes(b""), ["encode", "x.wav"], "x.wav cannot be read as audio"),
        (lambda p: (p / "x.wav").write_bytes(b"not audio"), ["encode", "x.wav"], "x.wav cannot be read as audio"),
        (lambda p: soundfile.write(p / "x.wav", np.zeros(0), 16000), ["encode", "x.wav"], "x.wav holds no samples"),
        (lambda p: soundfile.write(p / "x.wav", np.zeros((99, 3)), 16000), ["encode", "x.wav", "--format", "mp4"], "unknown format"),
        (lambda p: None, ["encode", "none.wav"], "none.wav is not a file"),
        (lambda p: (p / "x.codes").write_bytes(b"CLM"), ["decode", "x.codes"], "cut short"),
        (lambda p: (p / "x.codes").write_bytes(b"RIFFxxxxxxxx"), ["decode", "x.codes"], "no .codes file"),
        (lambda p: None, ["convert", "nocodec", "--checkpoint", "a", "-o", "b"], "unknown family 'nocodec'"),
        (lambda p: None, ["convert", "encodec", "--checkpoint", "a.th", "-o", "b"], "a.th does not exist"),
        (lambda p: (p / "r.yaml").write_text("modle: {}"), ["train-codec", "r.yaml"], "unknown section 'modle'"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_file(prepare, arguments, message, tmp_path, monkeypatch, codecs):
    prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    extra = ["--codec", str(codecs / "encodec")] if arguments[0] in ("encode", "decode") else []
    monkeypatch.chdir(tmp_path)
    done = command(*arguments, *extra)
    assert done.returncode == 2
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert sorted(tmp_path.iterdir()) == before


def test_output_that_cannot_be_written(codecs, speech, tmp_path):
    done = command("encode", speech, "-o", tmp_path / "none" / "x.codes", "--codec", codecs / "encodec")
    assert done.returncode == 2 and "does not exist" in done.stderr.decode()

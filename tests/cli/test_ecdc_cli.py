"""`.ecdc` files on the command line, with the small codec and language model of a run of the original."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from codec_lm_hf.bitstream import ecdc
from codec_lm_hf.cli import app
from tests.parity.harness import find_cases

runner = CliRunner()


def run(*arguments, **options):
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False, **options)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module", params=["causal_mono", "segmented_stereo"])
def case(request, tmp_path_factory):
    """Folder of a case, and one with its codec and language model converted."""
    folder = next(path for path in find_cases() if path.parts[-2:] == ("encodec", request.param))
    root = tmp_path_factory.mktemp(request.param)
    meta = json.loads((folder / "case.json").read_text())
    for family, file, config in (
        ("encodec", f"{folder.name}.th", meta["config"]),
        ("encodec_entropy_lm", "lm.th", meta["lm_config"]),
    ):
        (root / f"{family}.json").write_text(json.dumps(config))
        checkpoint = ["--checkpoint", folder / file, "--config", root / f"{family}.json"]
        run("convert", family, *checkpoint, "-o", root / family)
    return folder, root


def test_files_equal_those_of_the_original_program(case, tmp_path):
    folder, root = case
    original = (folder / "no_lm.ecdc").read_bytes()
    bandwidth = {"causal_mono": 3.6, "segmented_stereo": 2.1}[folder.name]
    target = tmp_path / "x.ecdc"
    run("encode", folder / "ecdc_input.wav", "-o", target, "--codec", root / "encodec", "--bandwidth", bandwidth)
    assert target.read_bytes() == original
    run("decode", target, "-o", tmp_path / "back.wav", "--codec", root / "encodec")
    run("decode", "-", "-o", tmp_path / "piped.wav", "--codec", root / "encodec", input=original)
    audio, rate = soundfile.read(tmp_path / "back.wav", always_2d=True)
    reference, reference_rate = soundfile.read(folder / "ecdc_input.wav", always_2d=True)
    assert (audio.shape, rate) == (reference.shape, reference_rate)
    assert (tmp_path / "piped.wav").read_bytes() == (tmp_path / "back.wav").read_bytes()


def test_with_the_language_model(case, tmp_path):
    folder, root = case
    codec, lm = ("--codec", root / "encodec"), ("--lm", root / "encodec_entropy_lm")
    run("encode", folder / "ecdc_input.wav", "--format", "ecdc", "-o", tmp_path / "lm.ecdc", *codec, *lm)
    run("encode", folder / "ecdc_input.wav", "-o", tmp_path / "plain.ecdc", *codec)
    assert ecdc.read_header((tmp_path / "lm.ecdc").read_bytes()).uses_lm
    assert not ecdc.read_header((tmp_path / "plain.ecdc").read_bytes()).uses_lm
    for name in ("lm", "plain"):
        run("decode", tmp_path / f"{name}.ecdc", "-o", tmp_path / f"{name}.wav", *codec, *lm)
    with_lm, plain = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("lm", "plain"))
    np.testing.assert_array_equal(with_lm, plain)


def test_mistakes(case, tmp_path):
    folder, root = case
    wav, codec = folder / "ecdc_input.wav", ("--codec", root / "encodec")
    lm_file = tmp_path / "lm.ecdc"
    run("encode", wav, "-o", lm_file, *codec, "--lm", root / "encodec_entropy_lm")
    before = sorted(tmp_path.iterdir())
    for arguments, message in (
        (("encode", wav, "-o", tmp_path / "x.codes", *codec, "--lm", root / "encodec_entropy_lm"), "leave it out"),
        (("encode", wav, "-o", tmp_path / "x.ecdc", *codec, "--lm", root / "encodec"), "no entropy model of EnCodec"),
        (("decode", lm_file, "-o", tmp_path / "x.wav", *codec), "written with a language model: give the same one"),
        (("decode", lm_file, "-o", tmp_path / "x.wav"), "lm.ecdc: this file does not say which weights decode it"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*arguments)
    assert sorted(tmp_path.iterdir()) == before


def test_info_shows_the_header(case):
    folder, _ = case
    result = runner.invoke(app, ["info", str(folder / "with_lm.ecdc")], catch_exceptions=False)
    assert f"model_name: {ecdc.read_header((folder / 'with_lm.ecdc').read_bytes()).model_name}" in result.output
    assert "uses_lm: True" in result.output

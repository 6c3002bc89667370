"""Lyra's .tflite files: what is refused, and by what message. That the numbers are right is shown in tests/parity."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import codec_lm_hf
from codec_lm_hf.conversion_scripts import ConversionError
from tests.parity.harness import find_cases

FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")
PUBLISHED = [case.parent / "model_coeffs" for case in find_cases() if case.parent.name == "soundstream_lyra"][:1]
published = pytest.mark.parametrize("published", PUBLISHED, ids=lambda path: path.name)


@pytest.fixture
def files(tmp_path):
    """A directory with three files that begin as TensorFlow Lite models do."""
    folder = tmp_path / "model_coeffs"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    return folder


def refused(folder, message):
    output = folder.parent / "out"
    with pytest.raises(ConversionError, match=message):
        codec_lm_hf.convert("soundstream_lyra", folder, output)
    assert not output.exists()


@pytest.mark.parametrize("name", FILES)
def test_missing_file(files, name):
    (files / name).unlink()
    refused(files, f"has no {name}; give Lyra's directory model_coeffs")


def test_a_file_instead_of_the_directory(files):
    refused(files / FILES[0], "give Lyra's directory model_coeffs")


@pytest.mark.parametrize("data", [b"", b"RIFF1234WAVE", bytes(100)])
def test_not_a_model(files, data):
    (files / FILES[0]).write_bytes(data)
    refused(files, f"{FILES[0]} is not a TensorFlow Lite model")


def test_damaged_model(files):
    refused(files, f"{FILES[0]} cannot be read; it may be cut short or another model")


@pytest.mark.parametrize("module", ["tflite", "flatbuffers"])
def test_missing_package_names_the_extra(files, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'codec-lm-hf\[lyra\]'"):
        codec_lm_hf.convert("soundstream_lyra", files, files.parent / "out")


@published
def test_record_and_reload(published, tmp_path):
    folder = codec_lm_hf.convert("soundstream_lyra", published, tmp_path / "lyra", preset="lyra_v2")
    record = json.loads((folder / "conversion.json").read_text())
    assert record["source"] == {name: hashlib.sha256((published / name).read_bytes()).hexdigest() for name in FILES}
    assert record["weights_license"] == "Apache-2.0"
    model = codec_lm_hf.AutoCodecModel.from_pretrained(folder)
    assert model.config.bandwidths == [3.2, 6.0, 9.2]
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 659_008
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


@published
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
def test_cut_short(published, name, share, tmp_path):
    folder = shutil.copytree(published, tmp_path / "cut", copy_function=shutil.copyfile)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * share)])
    refused(folder, name)


@published
def test_another_model_in_its_place(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "swapped", copy_function=shutil.copyfile)
    shutil.copyfile(published / "lyragan.tflite", folder / "soundstream_encoder.tflite")
    refused(folder, "keys are unknown to this family")


@published
@settings(
    derandomize=True, max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.floats(0, 1), value=st.integers(0, 255))
def test_a_changed_byte_converts_or_is_refused(published, tmp_path, position, value):
    folder = tmp_path / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(published, folder, copy_function=shutil.copyfile)
    file = folder / "quantizer.tflite"
    data = bytearray(file.read_bytes())
    data[8 + int(position * (len(data) - 9))] = value
    file.write_bytes(data)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        codec_lm_hf.convert("soundstream_lyra", folder, tmp_path / "out")
    except ConversionError as error:
        assert "quantizer" in str(error) or "does not fit" in str(error)

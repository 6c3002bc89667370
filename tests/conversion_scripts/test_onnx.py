"""Codecs in onnxruntime give the codes and the audio that they give in torch."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import codec_lm_hf
from codec_lm_hf.conversion_scripts.onnx import export_onnx
from tests.common.tiny import TINY

SAMPLES = 2400
# One row for every way of computing, and so of every family; the others differ in sizes. Those without LSTM layers and
# segments can become graphs of any length too, which takes much longer to export; the page's is the bundled codec, and
# so Lyra V2's kind.
FIXED = [
    "audiodec",
    "encodec",
    "encodec-segments",
    "speechtokenizer",
    "funcodec",
    "funcodec-magphase",
    "soundstream",
]
# HiFi-Codec is below, with fewer codebooks.
DYNAMIC = ["dac", "stft_codec"]


def run(path, inputs: dict) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)


def coded(folder, audio) -> dict[str, np.ndarray]:
    outputs = run(folder / "encoder.onnx", {"input_values": audio.numpy()})
    return dict(zip(["audio_codes", "audio_scales"], outputs, strict=False))


@torch.no_grad()
def assert_equal(model, folder, audio):
    """The codes are equal and the audio is; the decoder gets the codes of torch."""
    expected = model.encode(audio)
    given = {name: getattr(expected, name).numpy() for name in ("audio_codes", "audio_scales") if name in expected}
    found = coded(folder, audio)
    assert found.keys() == given.keys()
    np.testing.assert_array_equal(found["audio_codes"], given["audio_codes"])
    assert_audio_equal(model, folder, given)


@torch.no_grad()
def assert_audio_equal(model, folder, given):
    decoded = model.decode(**{name: torch.from_numpy(value) for name, value in given.items()}).audio_values
    (values,) = run(folder / "decoder.onnx", given)
    np.testing.assert_allclose(values, decoded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FIXED)
def test_equal_codes_and_audio(name, tmp_path):
    model = TINY[name].model()
    # More than one segment, where there are any.
    samples = 3 * (model.config.chunk_stride or SAMPLES) // 2
    folder = export_onnx(model, tmp_path, samples)
    noise = 0.1 * torch.randn(1, model.config.audio_channels, samples)
    assert_equal(model, folder, noise)
    assert_equal(model, folder, 0 * noise)
    figures = json.loads((folder / "codec.json").read_text())
    assert (figures["frames"], figures["dynamic"]) == (model._num_frames(samples), False)


# Angles near plus and minus pi are neighbours, but not to this codec, and rounding decides between them wherever a
# spectrum is real: at its ends, and where the signal was reflected.
def test_a_decoder_of_angles_gives_the_same_audio(tmp_path):
    model = TINY["funcodec-magangle"].model()
    folder = export_onnx(model, tmp_path, SAMPLES)
    assert_audio_equal(model, folder, coded(folder, 0.1 * torch.randn(1, 1, SAMPLES)))


@pytest.mark.parametrize("name", DYNAMIC)
def test_graphs_of_any_length(name, tmp_path):
    model = TINY[name].model()
    hop = model.config.hop_length
    folder = export_onnx(model, tmp_path, 16 * hop, dynamic=True)
    for frames in (16, 17, 40):
        assert_equal(model, folder, 0.1 * torch.randn(1, model.config.audio_channels, frames * hop))
    assert json.loads((folder / "codec.json").read_text())["dynamic"]


@pytest.mark.parametrize("name", ["encodec", "encodec-segments", "speechtokenizer", "funcodec", "hificodec-segments"])
def test_any_length_is_refused_where_it_cannot_be(name, tmp_path):
    model = TINY[name].model()
    with pytest.raises(ValueError, match="for one length only; leave dynamic off"):
        export_onnx(model, tmp_path, 16 * model.config.hop_length, dynamic=True)


def test_fewer_codebooks_at_any_length(tmp_path):
    model = TINY["hificodec"].model()
    folder = export_onnx(model, tmp_path, 16 * model.config.hop_length, dynamic=True, num_quantizers=2)
    for frames in (16, 17, 40):
        audio = 0.1 * torch.randn(1, 1, frames * model.config.hop_length)
        found = coded(folder, audio)
        np.testing.assert_array_equal(found["audio_codes"], model.encode(audio, num_quantizers=2).audio_codes)
        assert_audio_equal(model, folder, found)


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = codec_lm_hf.AutoCodecModel.from_pretrained(codec_lm_hf.bundled("codec"))
    codec_lm_hf.export_onnx(model, "onnx", samples=16000, dynamic=True)
    page = (Path(__file__).parents[2] / "docs/onnx.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope: dict = {}
    exec(compile(block, "onnx.md", "exec"), scope)
    assert scope["audio"].shape == (1, 1, 32000)
    # The page codes silence.
    np.testing.assert_array_equal(scope["codes"], model.encode(torch.zeros(1, 1, 32000)).audio_codes)
    for frames in (50, 53):
        assert_equal(model, tmp_path / "onnx", 0.1 * torch.randn(1, 1, frames * model.config.hop_length))


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        export_onnx(TINY["dac"].model(), tmp_path, 0)


def test_what_cannot_be_exported_is_refused(tmp_path):
    model = TINY["hificodec"].model()
    with pytest.raises(ValueError, match="samples=1501 is no whole number of frames .*take 1520"):
        export_onnx(model, tmp_path, 1501, dynamic=True)
    with pytest.raises(ValueError, match="num_quantizers"):
        export_onnx(model, tmp_path / "new", 1520, num_quantizers=99)
    with pytest.raises(ValueError, match="weights are torch.bfloat16; export them in float32"):
        export_onnx(model.bfloat16(), tmp_path, 1500)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'codec-lm-hf\[onnx\]'"):
        export_onnx(TINY["hificodec"].model(), tmp_path, 1500)

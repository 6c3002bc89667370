"""Codecs in onnxruntime give the codes and the audio that they give in torch."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import codec_lm_hf
from codec_lm_hf.conversion_scripts.onnx import export_onnx
from tests.common.tiny import TINY

SAMPLES = 2400
# One row for every way of computing; the others differ in sizes.
NAMES = [
    "encodec",
    "encodec-segments",
    "soundstream",
    "audiodec",
    "hificodec",
    "dac",
    "speechtokenizer",
    "funcodec",
    "funcodec-magphase",
    "stft_codec",
]


def run(path, inputs: dict) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_equal_codes_and_audio(name, tmp_path):
    model = TINY[name].model()
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(1, model.config.audio_channels, SAMPLES)
    with torch.no_grad():
        expected = model.encode(audio)
        decoded = model.decode(expected.audio_codes, expected.audio_scales).audio_values
    folder = export_onnx(model, tmp_path, SAMPLES)
    outputs = run(folder / "encoder.onnx", {"input_values": audio.numpy()})
    np.testing.assert_array_equal(outputs[0], expected.audio_codes)
    names = ["audio_codes", "audio_scales"][: len(outputs)]
    (values,) = run(folder / "decoder.onnx", dict(zip(names, outputs, strict=True)))
    np.testing.assert_allclose(values, decoded, atol=1e-4, rtol=1e-4)
    assert json.loads((folder / "codec.json").read_text())["frames"] == expected.audio_codes.shape[-1]


def test_fewer_codebooks(tmp_path):
    model = TINY["hificodec"].model()
    audio = 0.1 * torch.randn(1, 1, SAMPLES)
    folder = export_onnx(model, tmp_path, SAMPLES, num_quantizers=2)
    (codes,) = run(folder / "encoder.onnx", {"input_values": audio.numpy()})
    np.testing.assert_array_equal(codes, model.encode(audio, num_quantizers=2).audio_codes)


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = codec_lm_hf.AutoCodecModel.from_pretrained(codec_lm_hf.bundled("codec"))
    codec_lm_hf.export_onnx(model, "onnx", samples=16000)
    page = (Path(__file__).parents[2] / "docs/onnx.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope: dict = {}
    exec(compile(block, "onnx.md", "exec"), scope)
    assert scope["audio"].shape == (1, 1, 16000)
    # The page codes silence.
    np.testing.assert_array_equal(scope["codes"], model.encode(torch.zeros(1, 1, 16000)).audio_codes)


def test_no_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        export_onnx(TINY["dac"].model(), tmp_path, 0)

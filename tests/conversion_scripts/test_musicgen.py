"""AudioCraft's folders to a directory with everything. That it sounds the same is shown in tests/parity."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForTextToWaveform, AutoProcessor

import codec_lm_hf
from codec_lm_hf import MusicGenLMProcessor
from codec_lm_hf.conversion_scripts.engine import ConversionError
from tests.parity.harness import PROJECT

CASE = PROJECT / "tests/parity/cases/musicgen/text_mono"
LM, CODEC = "state_dict.bin", "compression_state_dict.bin"


@pytest.fixture
def original(tmp_path):
    """A folder as it is published, for a test to change."""
    folder = tmp_path / "original"
    folder.mkdir()
    for name in (LM, CODEC):
        shutil.copy(CASE / name, folder)
    return folder


def test_a_folder_becomes_model_processor_and_codec(original, tmp_path):
    output = codec_lm_hf.convert("musicgen", original, tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(output)
    assert type(processor) is MusicGenLMProcessor
    assert (processor.text_encoder_name, processor.codec_name) == ("t5-base", None)
    assert (output / "codec" / "model.safetensors").is_file()
    record = json.loads((output / "conversion.json").read_text())
    assert record["source"].keys() == {LM, CODEC} and "seanet" in record["original"]["config"]["codec"]
    model, codec = AutoModelForTextToWaveform.from_pretrained(output), processor.codec.config
    assert (model.config.frame_rate, model.config.sampling_rate) == (codec.frame_rate, codec.sampling_rate)
    assert (processor.num_codebooks, processor.codebook_size) == (codec.num_codebooks, codec.codebook_size)


def test_the_file_alone_becomes_a_processor_without_a_codec(original, tmp_path):
    output = codec_lm_hf.convert("musicgen", original / LM, tmp_path / "ours")
    assert not (output / "codec").exists()
    with pytest.raises(ValueError, match="this processor has no codec"):
        AutoProcessor.from_pretrained(output).codec  # noqa: B018
    (original / CODEC).unlink()
    again = codec_lm_hf.convert("musicgen", original, tmp_path / "again")
    assert json.loads((again / "conversion.json").read_text())["source"].keys() == {LM}
    assert (again / "model.safetensors").read_bytes() == (output / "model.safetensors").read_bytes()


def test_a_codec_that_is_only_named_is_loaded_by_its_name(original, tmp_path):
    torch.save({"pretrained": "facebook/encodec_32khz", "exported": True, "version": "1.3.0"}, original / CODEC)
    output = codec_lm_hf.convert("musicgen", original, tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(output)
    assert processor.codec_name == "facebook/encodec_32khz" and not (output / "codec").exists()
    torch.save({"pretrained": "dac_44khz"}, original / CODEC)
    with pytest.raises(ConversionError, match="only names its codec, 'dac_44khz', which is no repository"):
        codec_lm_hf.convert("musicgen", original, tmp_path / "no")


def test_what_does_not_fit_is_refused_and_nothing_is_left(original, tmp_path):
    file = torch.load(original / CODEC, weights_only=True)
    assert "n_q: 4" in file["xp.cfg"]
    file["xp.cfg"] = file["xp.cfg"].replace("n_q: 4", "n_q: 2")
    late = ("quantizer.vq.layers.2.", "quantizer.vq.layers.3.")
    file["best_state"] = {name: value for name, value in file["best_state"].items() if not name.startswith(late)}
    torch.save(file, original / CODEC)
    with pytest.raises(ValueError, match="has 2 codebooks of .* entries; the language model takes 4"):
        codec_lm_hf.convert("musicgen", original, tmp_path / "ours")
    (original / LM).unlink()
    with pytest.raises(ConversionError, match="state_dict.bin is not a file"):
        codec_lm_hf.convert("musicgen", original, tmp_path / "ours")
    assert {path.name for path in tmp_path.iterdir()} == {"original"}

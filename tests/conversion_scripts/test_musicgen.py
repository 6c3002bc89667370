"""AudioCraft's folders to a directory with everything. That it sounds the same is shown in tests/parity."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoModelForTextToWaveform, AutoProcessor

import codec_lm_hf
from codec_lm_hf import MusicGenLMProcessor
from codec_lm_hf.conversion_scripts.engine import ConversionError
from codec_lm_hf.conversion_scripts.musicgen import CONVERTER
from tests.parity.harness import PROJECT

# Values of the case's configuration, by the names on the way to them.
T5 = "conditioners.description.t5."
CHROMA = {"model": "chroma_stem", "chroma_stem": {"n_chroma": 12, "radix2_exp": 9, "argmax": True}}
MELODY = {"conditioners.self_wav": CHROMA, "fuser.cross": [], "fuser.prepend": ["description", "self_wav"]}
STEREO = {"interleave_stereo_codebooks.use": True, "channels": 2}
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


def configured(**changes):
    """The configuration that comes of the case's, changed."""
    original = copy.deepcopy(CONVERTER.read_config(CASE))
    for path, value in changes.items():
        *path, name = path.split(".")
        part = original
        for inner in path:
            part = part.setdefault(inner, {})
        part[name] = copy.deepcopy(value)
    return CONVERTER.config_from_original(original)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"codebooks_pattern": {"modeling": "parallel"}}, {"delays": [0, 0, 0, 0]}),
        ({"codebooks_pattern.delay": {"delays": None}}, {"delays": [0, 1, 2, 3]}),
        ({"codebooks_pattern": {"modeling": "delay"}}, {"delays": [0, 1, 2, 3]}),
        ({"codebooks_pattern.modeling": None, "transformer_lm.q_modeling": "parallel"}, {"delays": [0, 0, 0, 0]}),
        ({T5 + "name": "google/flan-t5-large"}, {"text_hidden_size": 1024}),
        ({"fuser.cross": [], "fuser.prepend": ["description"]}, {"text_condition": "prefix", "num_chroma": 0}),
        (MELODY, {"text_condition": "prefix", "num_chroma": 12, "chroma_n_fft": 512}),
        (
            {"transformer_lm.card": "${cards}", "cards": 99, "codec.rvq.bins": "${b}", "codec.b": 99},
            {"codebook_size": 99},
        ),
        # It is the codec that has channels, and frames that are counted in whole ones a second.
        ({"channels": 1, "codec.channels": 2}, {"audio_channels": 2}),
        (STEREO, {"audio_channels": 2}),
        ({"codec.seanet.ratios": [7, 3]}, {"frame_rate": 3200 // 21}),
    ],
)
def test_a_configuration_means_what_audiocraft_makes_of_it(changes, fields):
    config = configured(**changes)
    assert {name: getattr(config, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer_lm.activation": "relu"}, "activation='relu' is not supported"),
        ({"transformer_lm": {"dim": 8}}, "activation='relu' is not supported"),
        ({"transformer_lm.positional_scale": 0.5}, "positional_scale=0.5 is not supported"),
        ({"transformer_lm.max_period": 100}, "max_period=100 is not supported"),
        ({"transformer_lm.hidden_scale": 2.5}, "hidden_scale=2.5 is not supported"),
        ({"codebooks_pattern.modeling": "unroll"}, "the pattern 'unroll' is not supported"),
        ({"codebooks_pattern.delay.flatten_first": 2}, "flatten_first=2 is not supported"),
        ({"fuser.cross_attention_pos_emb": True}, "cross_attention_pos_emb=True is not supported"),
        (
            {"fuser.cross": [], "fuser.sum": ["description"]},
            r"the conditions \{'description': \('t5', None\)\} are not",
        ),
        ({"conditioners": None}, r"the conditions \{\} are not supported"),
        ({"conditioners.genre": {"model": "lut"}}, "'genre': .'lut', None.* are not supported"),
        ({T5 + "normalize_text": True}, "normalize_text=True is not supported"),
        ({**MELODY, "conditioners.self_wav.chroma_stem.winhop": 100}, "winhop=100 is not supported"),
        ({**STEREO, "interleave_stereo_codebooks.per_timestep": True}, "per_timestep=True is not supported"),
        ({"codec.seanet.decoder": {"n_filters": 8}}, r"other values of one of the two for \['n_filters'\]"),
    ],
)
def test_what_no_published_model_has_is_refused_by_name(changes, message):
    with pytest.raises(ConversionError, match=message):
        configured(**changes)


def test_weights_of_torch_s_own_attention_are_read(original, tmp_path):
    file = torch.load(original / LM, weights_only=True)
    file["best_state"] = {name.replace("_attn.", "_attn.mha."): value for name, value in file["best_state"].items()}
    torch.save(file, original / LM)
    one, two = (
        codec_lm_hf.convert("musicgen", path / LM, tmp_path / name) for path, name in ((CASE, "a"), (original, "b"))
    )
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()

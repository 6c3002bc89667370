"""Back into the layout of transformers' own classes, which then give what ours give."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForTextToWaveform, AutoProcessor, EncodecModel
from transformers.models.musicgen_melody.feature_extraction_musicgen_melody import MusicgenMelodyFeatureExtractor

import codec_lm_hf
from codec_lm_hf import EncodecCodecModel, MusicGenLMForConditionalGeneration, MusicGenLMProcessor
from codec_lm_hf.conversion_scripts.engine import ConversionError
from tests.common.tiny import TINY
from tests.common.tiny_lm import TINY_LM, tiny_codec
from tests.common.tiny_text import tiny_text_encoder, tiny_tokenizer
from tests.common.weights import assert_holds
from tests.modeling.test_musicgen import FRAMES, TEXTS, native_codes

# transformers' EnCodec takes codebooks of a power of two only, and its rate says how many there are.
POWER = {"codebook_size": 16, "initializer_range": 0.5}
REAL = {"sampling_rate": 32000, "chroma_n_fft": 16384, "max_duration": 0.3, "extend_stride": 0.2}


def saved(folder, name: str = "musicgen", **fields):
    """A tiny model of ours with all that goes with it, in a folder."""
    model = TINY_LM[name].model(text_encoder_name=None, **POWER, **fields)
    model.text_encoder = tiny_text_encoder(model.config.text_hidden_size)
    processor = MusicGenLMProcessor.from_config(model.config)
    processor.tokenizer = tiny_tokenizer()
    processor.codec = tiny_codec(4, 16, model.config.sampling_rate)
    config = processor.codec.config
    config.target_bandwidths = (config.bandwidth_of(4),)
    for part in (model, processor):
        part.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize(
    ("name", "fields"),
    [("musicgen", {}), ("musicgen-stereo", {}), ("musicgen-melody", REAL), ("audiogen", {})],
)
def test_musicgen_plays_the_same_there_and_back(name, fields, tmp_path):
    model, processor = saved(tmp_path / "ours", name, **fields)
    codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "native")
    native = AutoModelForTextToWaveform.from_pretrained(tmp_path / "native")
    assert type(native).__module__.startswith("transformers.models.musicgen")
    inputs = processor(TEXTS)
    theirs = dict(inputs)
    if model.config.num_chroma:
        # The masks of texts that stand before the codes are ours alone.
        model.config.mask_text_padding = False
        inputs = processor(TEXTS, melody=[np.sin(np.arange(9000) / step).astype(np.float32) for step in (5, 9, 20)])
        theirs["input_features"] = model.chroma(inputs["melody_values"][:, 0])
    expected = model.generate(**inputs, do_sample=False, max_new_tokens=FRAMES)
    codes, audio = native_codes(native, FRAMES, **theirs)
    assert torch.equal(codes, expected) and len(codes.unique()) > 5
    for ours, row in zip(processor.batch_decode(codes), audio, strict=True):
        torch.testing.assert_close(ours, row, atol=1e-5, rtol=1e-4)
    again = MusicGenLMForConditionalGeneration.from_pretrained(tmp_path / "native")
    assert_holds(again, model)


def test_generation_settings_and_the_processor_go_with_it(tmp_path):
    _, processor = saved(tmp_path / "ours", guidance_scale=2.5)
    codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "native")
    native, theirs = (
        auto.from_pretrained(tmp_path / "native") for auto in (AutoModelForTextToWaveform, AutoProcessor)
    )
    options = native.generation_config
    assert (options.guidance_scale, options.top_k, options.do_sample) == (2.5, 250, True)
    # A second, at 50 frames.
    assert native.generate(**theirs(text=["dogs"], return_tensors="pt"), do_sample=False).shape == (1, 1, 50 * 16)
    batch, expected = theirs(text=TEXTS[:2], padding=True, return_tensors="pt"), processor(TEXTS[:2])
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert theirs.feature_extractor.sampling_rate == 800


def test_whatever_somebody_has_settled_for_generation_goes_with_it(tmp_path):
    model, processor = saved(tmp_path / "ours")
    model.generation_config.update(temperature=0.7, top_p=0.9, repetition_penalty=1.1, max_new_tokens=20)
    model.save_pretrained(tmp_path / "ours")
    codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "native")
    native = AutoModelForTextToWaveform.from_pretrained(tmp_path / "native")
    options = native.generation_config
    assert (options.temperature, options.top_p, options.repetition_penalty) == (0.7, 0.9, 1.1)
    assert native.generate(**processor(["dogs"]), do_sample=False).shape == (1, 1, 20 * 16)
    again = MusicGenLMForConditionalGeneration.from_pretrained(tmp_path / "native").generation_config
    assert (again.temperature, again.top_p, again.top_k) == (0.7, 0.9, 250)


def test_settings_of_melodies_are_those_that_transformers_reads(tmp_path):
    """Its extractor of them needs torchaudio, so that only its arguments are looked at."""
    saved(tmp_path / "ours", "musicgen-melody", **REAL)
    codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "native")
    written = json.loads((tmp_path / "native" / "preprocessor_config.json").read_text())
    arguments = inspect.signature(MusicgenMelodyFeatureExtractor.__init__).parameters
    assert {name for name in arguments if name not in ("self", "kwargs")} <= written.keys()
    assert written["feature_extractor_type"] == "MusicgenMelodyFeatureExtractor"
    assert (written["n_fft"], written["hop_length"], written["chunk_length"]) == (16384, 4096, 1)


@pytest.mark.parametrize("fields", [{}, {"norm_type": "time_group_norm", "use_causal_conv": False}])
def test_encodec_codes_the_same_there_and_back(fields, tmp_path):
    model = TINY["encodec"].model(**fields)
    model.config.target_bandwidths = (model.config.bandwidth_of(4),)
    model.save_pretrained(tmp_path / "ours")
    TINY["encodec"].feature_extractor().save_pretrained(tmp_path / "ours")
    codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "native")
    native = AutoModel.from_pretrained(tmp_path / "native")
    assert type(native) is EncodecModel
    audio = torch.randn(1, 1, 3000, generator=torch.Generator().manual_seed(0)) * 0.3
    codes = model.encode(audio).audio_codes
    assert torch.equal(native.encode(audio, bandwidth=model.config.bandwidths[-1]).audio_codes[0], codes)
    features = AutoFeatureExtractor.from_pretrained(tmp_path / "native")
    assert (features.sampling_rate, features.feature_size) == (24000, 1)
    again = EncodecCodecModel.from_pretrained(tmp_path / "native")
    assert torch.equal(again.encode(audio).audio_codes, codes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"delays": (0, 2, 4, 6)}, r"with the delays \[0, 2, 4, 6\]; its are \[0, 1, 2, 3\]"),
        ({"text_condition": "prefix"}, "texts before the codes and no melodies"),
        ({"text_hidden_size": 32}, "no condition as wide as it is itself, hidden_size=32"),
    ],
)
def test_what_transformers_has_no_class_for_is_refused_and_nothing_is_left(fields, message, tmp_path):
    saved(tmp_path / "ours", **fields)
    with pytest.raises(ConversionError, match=message):
        codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "native")
    assert {path.name for path in tmp_path.iterdir()} == {"ours"}


def export_of(folder, case, **fields):
    for part in (case.model(**fields), case.feature_extractor()):
        part.save_pretrained(folder)
    return codec_lm_hf.export_native(folder, folder.with_name("native"))


def test_codecs_that_transformers_has_no_class_for_are_refused(tmp_path):
    with pytest.raises(ConversionError, match=r"reads 5 codebooks off the bandwidths \[2.4\]; this model has 3"):
        export_of(tmp_path / "few", TINY["encodec"], num_quantizers=3, target_bandwidths=(2.4,))
    with pytest.raises(ConversionError, match="is a soundstream, for which transformers has no class of its own"):
        export_of(tmp_path / "other", TINY["soundstream"])
    _, processor = saved(tmp_path / "ours")
    with pytest.raises(ConversionError, match="is not an empty directory"):
        codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "few")
    processor.codebook_size = 64
    processor.codec = TINY["soundstream"].model()
    processor.save_pretrained(tmp_path / "ours")
    with pytest.raises(ConversionError, match="SoundStreamModel cannot be written"):
        codec_lm_hf.export_native(tmp_path / "ours", tmp_path / "native")

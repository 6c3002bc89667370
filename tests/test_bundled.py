"""The bundled checkpoints are what their cards say."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForTextToWaveform, AutoProcessor

import codec_lm_hf
from codec_lm_hf.bitstream.codes import CodesHeader
from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.evaluation import judges
from codec_lm_hf.evaluation.metrics import log_mel_distance, stoi
from codec_lm_hf.processing.audio import load_audio

FOLDER = Path(codec_lm_hf.bundled("codec"))


@pytest.fixture(scope="module")
def codec():
    return AutoModel.from_pretrained(FOLDER).eval()


@pytest.fixture(scope="module")
def speech():
    audio, _ = load_audio(SPEECH, 16000, 1)
    return torch.from_numpy(audio)[None]


def test_its_name_in_files_is_the_same_on_every_machine():
    codec = codec_lm_hf.AutoCodecModel.from_pretrained("bundled:codec")
    assert CodesHeader.of(codec).codec == codec.name_or_path == "bundled:codec"
    with pytest.raises(ValueError, match="no bundled checkpoint 'singer'; there is: codec, tts"):
        codec_lm_hf.AutoCodecModel.from_pretrained("bundled:singer")


def test_it_is_small_and_stored_in_half_precision():
    path = FOLDER / "model.safetensors"
    assert path.stat().st_size <= 6_000_000
    with safe_open(path, "pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}  # noqa: SIM118


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_speech_has_the_same_codes(codec, speech, dtype, tmp_path):
    half = AutoModel.from_pretrained(FOLDER, dtype=dtype).eval()
    assert torch.equal(half.encode(speech).audio_codes, codec.encode(speech).audio_codes)
    if dtype == torch.float16:
        half.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").stat().st_size <= (FOLDER / "model.safetensors").stat().st_size + 1000


def test_it_works_in_single_precision_at_the_rates_it_promises(codec):
    assert codec.dtype == torch.float32
    config = codec.config
    assert (config.sampling_rate, config.frame_rate, config.num_codebooks, config.codebook_size) == (
        16000,
        50,
        8,
        1024,
    )
    assert config.bandwidths == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert codec.streamable and codec.stream_latency <= 480


def test_the_feature_extractor_comes_with_it():
    assert AutoFeatureExtractor.from_pretrained(FOLDER).sampling_rate == 16000


def test_speech_stays_intelligible_and_more_codebooks_are_better(codec, speech):
    """On a recording that it was not trained on."""
    distances, target = [], speech[0, 0].numpy()
    for count in (1, 2, 4, 8):
        codes = codec.encode(speech, num_quantizers=count)
        audio = codec.decode(**codes, padding_mask=torch.ones_like(speech[:, 0])).audio_values[0, 0].detach().numpy()
        distances.append(log_mel_distance(audio, target, 16000))
    assert distances == sorted(distances, reverse=True)
    assert stoi(audio, target, 16000) > 0.8


def test_many_codes_are_in_use(codec, speech):
    codes = codec.encode(speech).audio_codes[0]
    assert all(len(np.unique(row)) > codes.shape[1] / 4 for row in codes)


def test_it_is_several_times_faster_than_real_time(codec, speech):
    """About a hundred times on a quiet core; far less is asked here, since tests share their machine."""
    codec.fuse()
    with torch.no_grad():
        codec(speech)
        started = time.process_time()
        codec(speech)
        assert time.process_time() - started < speech.shape[-1] / 16000 / 3


def test_the_codecs_card_states_licence_data_and_measured_quality():
    card = (FOLDER / "README.md").read_text()
    assert re.search(r"^license: apache-2.0$", card, re.M)
    for word in ("LibriSpeech", "CC BY 4.0", "not good for", "codec_quality.py"):
        assert word in card
    history = (FOLDER / "training_log.csv").read_text().splitlines()
    assert history[0].startswith("run,step,") and len(history) > 5
    assert json.loads((FOLDER / "metrics.json").read_text())


# --- the speaking model ----------------------------------------------------------------------------------------------

needs_gruut = pytest.mark.skipif(
    importlib.util.find_spec("gruut") is None, reason="the model reads phonemes: pip install '.[gruut]'"
)
TTS = Path(codec_lm_hf.bundled("tts"))


@pytest.fixture(scope="module")
def speaking():
    return AutoModelForTextToWaveform.from_pretrained(TTS).eval(), AutoProcessor.from_pretrained(TTS)


@pytest.fixture(scope="module")
def voice():
    return load_audio(TTS / "voice.ogg", 16000, 1)[0][0]


def test_the_speaking_model_is_small_and_knows_its_codec_by_name(speaking):
    model, processor = speaking
    path = TTS / "model.safetensors"
    assert path.stat().st_size <= 8_000_000 and model.dtype == torch.float32
    with safe_open(path, "pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert processor.codec_name == "bundled:codec"
    assert len(processor.symbols) == model.config.vocab_size


@needs_gruut
def test_it_speaks_in_batches_as_alone_and_ends_by_itself(speaking, voice):
    model, processor = speaking
    texts = ["three one four one five", "the train leaves at noon"]
    inputs = processor(texts, audio=[voice] * 2, sampling_rate=16000)
    found = model.generate(**inputs, do_sample=False, return_dict_in_generate=True)
    assert found.stopped.all()
    for row, text in enumerate(texts):
        alone = model.generate(**processor(text, audio=voice, sampling_rate=16000), do_sample=False)
        frames = int(found.codes_mask[row].sum())
        assert torch.equal(found.sequences[row, :, :frames], alone[0])
        # Of speech.
        assert 0.7 < frames / 50 < 4


@needs_gruut
@pytest.mark.skipif(not judges.available(), reason="the judges are not installed: pip install '.[judge]'")
def test_what_it_says_can_be_understood(speaking, voice):
    """Digits, which it says best; benchmarks/speaking_quality.py measures all that it was made for."""
    model, processor = speaking
    recognise, errors, words = judges.Recogniser(), 0, 0
    for text in ("seven two nine four", "one eight three", "five five six zero two", "nine four one two"):
        inputs = processor(text, audio=voice, sampling_rate=16000)
        wave = processor.decode(model.generate(**inputs, seed=0))[0]
        found = judges.word_errors(recognise(wave.numpy(), 16000), text)
        errors, words = errors + found[0], words + found[1]
    assert errors / words < 0.25


def test_its_card_states_licence_data_and_measured_quality():
    card = (TTS / "README.md").read_text()
    assert re.search(r"^license: apache-2.0$", card, re.M)
    for word in ("phrases_tts_24k", "not good for", "speaking_quality.py", "WER"):
        assert word in card
    measured = json.loads((TTS / "metrics.json").read_text())
    assert {"originals", "bundled"} <= {row["name"] for row in measured["speech"]}
    (digits,) = (row["wer"] for row in measured["digits"] if row["name"] == "bundled")
    assert digits < 0.05 and f"| the speaking model | {digits:.1%} |" in card
    assert f"{digits:.1%} are misheard" in (Path(__file__).parents[1] / "README.md").read_text()

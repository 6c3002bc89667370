"""`transformers.pipeline("text-to-audio", model=...)` over a directory: what the classes do by hand."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
import transformers

import codec_lm_hf
from codec_lm_hf import ValleConfig, ValleForConditionalGeneration, ValleProcessor
from codec_lm_hf.demo.roundtrip import SPEECH
from tests.common.tiny_lm import TINY_LM

TEXTS = ["one two", "two"]
OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 4, "do_sample": True, "seed": 1}


def speaking(folder, **fields):
    """A directory with a tiny model, not trained, its processor and the bundled codec."""
    torch.manual_seed(0)
    symbols = ValleProcessor.symbols_of(TEXTS)
    sizes = {"vocab_size": len(symbols), "codebook_size": 1024, "num_codebooks": 3}
    ValleForConditionalGeneration(ValleConfig(**{**TINY_LM["valle"].fields, **sizes, **fields})).save_pretrained(
        folder
    )
    processor = ValleProcessor(symbols, num_codebooks=3)
    processor.codec = codec_lm_hf.AutoCodecModel.from_pretrained(codec_lm_hf.bundled("codec"))
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prompted(tmp_path_factory):
    return speaking(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="module")
def voice():
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    return {"audio": audio[: rate // 2], "sampling_rate": rate}


def by_hand(folder, text, **given):
    processor = ValleProcessor.from_pretrained(folder)
    model = ValleForConditionalGeneration.from_pretrained(folder).eval()
    return processor.decode(model.generate(**processor(text, **given), **OPTIONS))[0].numpy()


@pytest.mark.parametrize("task", ["text-to-audio", "text-to-speech"])
def test_a_text_in_the_voice_of_a_prompt(prompted, voice, task):
    speak = transformers.pipeline(task, model=str(prompted))
    found = speak(TEXTS[0], preprocess_params={**voice, "prompt_text": "two"}, generate_kwargs=OPTIONS)
    assert found["sampling_rate"] == 16000
    np.testing.assert_array_equal(found["audio"], by_hand(prompted, TEXTS[0], **voice, prompt_text="two"))


def test_several_texts_and_no_prompt(tmp_path):
    folder = speaking(tmp_path, prepend_bos=True)
    speak = transformers.pipeline("text-to-audio", model=str(folder))
    found = speak(TEXTS, generate_kwargs=OPTIONS)
    for text, said in zip(TEXTS, found, strict=True):
        np.testing.assert_array_equal(said["audio"], by_hand(folder, text))
    tries = speak(TEXTS, generate_kwargs={**OPTIONS, "num_return_sequences": 2})
    assert [[wave.ndim for wave in said["audio"]] for said in tries] == [[1, 1], [1, 1]]
    speak.save_pretrained(tmp_path / "again")
    again = transformers.pipeline("text-to-audio", model=str(tmp_path / "again"))
    np.testing.assert_array_equal(again(TEXTS[0], generate_kwargs=OPTIONS)["audio"], found[0]["audio"])
    parts = {"model": speak.model, "tokenizer": speak.processor, "processor": speak.processor}
    loaded = transformers.pipeline("text-to-audio", **parts)
    np.testing.assert_array_equal(loaded(TEXTS[0], generate_kwargs=OPTIONS)["audio"], found[0]["audio"])
    with pytest.raises(ValueError, match="cannot do batching"):
        speak(TEXTS, generate_kwargs=OPTIONS, batch_size=2)


def test_what_the_processor_refuses_the_pipeline_refuses(prompted):
    speak = transformers.pipeline("text-to-audio", model=str(prompted))
    with pytest.raises(ValueError, match="prompt_codes must have at least one frame"):
        speak(TEXTS[0])
    with pytest.raises(ValueError, match=r"\['i', 's', 'x'\] are not in this processor's table"):
        speak("six")
    with pytest.raises(ValueError, match="has nothing to say"):
        speak(" ")


def test_a_model_without_a_codec_says_so(tmp_path):
    symbols = ValleProcessor.symbols_of(TEXTS)
    ValleForConditionalGeneration(ValleConfig(**{**TINY_LM["valle"].fields})).save_pretrained(tmp_path)
    ValleProcessor(symbols, num_codebooks=3, codebook_size=20).save_pretrained(tmp_path)
    with pytest.raises((ValueError, OSError), match="codec"):
        transformers.pipeline("text-to-audio", model=str(tmp_path))

"""Tasks by the survey's names: what a model has learnt, and what has to be given for it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoProcessor

from codec_lm_hf import MusicGenLMConfig, MusicGenLMProcessor, Task, ValleProcessor
from codec_lm_hf.registry import FAMILIES
from tests.common.tiny_lm import TINY_LM
from tests.common.tiny_text import tiny_tokenizer

LMS = [row for row in FAMILIES if row.kind == "lm"]
CODES = torch.zeros(4, 3, dtype=torch.long)


def music_processor(name="musicgen", **fields):
    processor = MusicGenLMProcessor.from_config(TINY_LM[name].config(), **fields)
    processor.tokenizer = tiny_tokenizer()
    return processor


@pytest.mark.parametrize("row", LMS, ids=lambda row: row.name)
def test_every_language_model_s_processor_knows_the_tasks_of_its_family(row):
    config, processor_class = row.load("config")(), row.load("processor")
    assert row.tasks and processor_class.from_config(config).tasks == list(row.tasks)


def test_the_tasks_of_a_fine_tuned_model_are_saved_with_its_processor(tmp_path):
    config = MusicGenLMConfig()
    config.save_pretrained(tmp_path)
    music_processor(tasks=["MG", "AUED"]).save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).tasks == ["MG", "AUED"]


@pytest.mark.parametrize("task", ["TTS", Task.TTS])
def test_a_task_changes_nothing_where_it_is_what_follows_from_the_inputs(task):
    processor = ValleProcessor(ValleProcessor.symbols_of(["one"]))
    assert torch.equal(processor("one", task=task)["input_ids"], processor("one")["input_ids"])


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("musicgen", {"text": "a piano", "task": "ASR"}, r"'ASR' \(speech recognition\).*'MG' \(music generation\)"),
        ("musicgen", {"text": "a piano", "task": "KARAOKE"}, "the task 'KARAOKE' is none of this model's"),
        ("musicgen", {"text": "a piano", "task": "SG"}, "models with 2 channels; this one's audio has 1"),
        ("musicgen", {"text": ["a piano", None], "task": "MG"}, r"MG, .*\(text -> audio\), needs text"),
        ("audiogen", {"text": None, "task": "AC"}, r"AC, .*\(audio -> audio\), needs audio"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(family, given, message):
    with pytest.raises(ValueError, match=message):
        music_processor(family)(**given)


def test_audio_may_be_given_as_codes_and_a_stereo_model_knows_stereo():
    assert "prompt_codes" in music_processor("audiogen")(None, prompt_codes=[CODES], task="AC")
    assert "input_ids" in music_processor(audio_channels=2)("a piano", task="SG")


def test_a_processor_is_not_made_for_a_task_that_there_is_not():
    with pytest.raises(ValueError, match="'KARAOKE'"):
        ValleProcessor(tasks=["KARAOKE"])

"""Judges of generated speech: words by a recogniser, voices by a speaker encoder."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import soundfile

from codec_lm_hf.demo.roundtrip import SPEECH
from codec_lm_hf.evaluation import judges
from codec_lm_hf.evaluation.generated import JUDGES, Generated, VoiceJudge, WordJudge

needs_judges = pytest.mark.skipif(
    not judges.available(), reason="the judges are not installed: pip install 'codec-lm-hf[judge]' and resemblyzer"
)
needs_words = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jiwer", "num2words")),
    reason="jiwer and num2words are not installed: pip install 'codec-lm-hf[judge]'",
)


def said(text: str = "", audio: np.ndarray | None = None, voice: np.ndarray | None = None, rate: int = 16000):
    nothing = np.zeros(0, np.float32)
    return Generated(nothing if audio is None else audio, rate, text, nothing if voice is None else voice)


@needs_words
def test_the_error_rate_is_errors_over_words_of_all_rows():
    heard = iter(["one two", "", "At 20 to 10."])
    judge = WordJudge(lambda audio, rate: next(heard))
    rows = [judge(said(text)) for text in ("one two three", "four", "at twenty to ten")]
    assert [row["word_errors"] for row in rows] == [1, 1, 0] and rows[2]["heard"] == "At 20 to 10."
    assert judge.score(rows) == 2 / 8


@needs_words
def test_a_text_without_words_is_refused_before_anything_is_said():
    judge = WordJudge(lambda audio, rate: "")
    judge.check("one")
    with pytest.raises(ValueError, match=r"the text '\?!' holds no word to count errors by"):
        judge.check("?!")


def test_similarity_is_the_mean_cosine_and_nothing_is_like_nobody():
    voices = {1: np.array([1.0, 0.0]), 2: np.array([0.6, 0.8])}
    judge = VoiceJudge(lambda audio, rate: voices[len(audio)])
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    rows = [judge(said(audio=one, voice=two)), judge(said(audio=two, voice=two)), judge(said(voice=two))]
    assert [row["speaker_similarity"] for row in rows] == pytest.approx([0.6, 1.0, 0.0])
    assert judge.score(rows) == pytest.approx(1.6 / 3)


@needs_judges
def test_a_recording_has_its_own_words_and_its_own_voice():
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    words, voice = JUDGES["wer"](), JUDGES["speaker_similarity"]()
    heard = words(said("anything", audio, audio, rate))["heard"]
    assert len(heard.split()) > 3
    # Heard again, it may be spelled otherwise in a word.
    again, nothing = (words(said(heard, sound, audio, rate)) for sound in (audio, audio[:0]))
    assert words.score([again]) < 0.3 and words.score([nothing]) == 1
    noise = 0.1 * np.random.default_rng(0).standard_normal(rate).astype(np.float32)
    own, other = (voice(said("", sound, audio, rate))["speaker_similarity"] for sound in (audio[: 2 * rate], noise))
    assert own > 0.8 > other

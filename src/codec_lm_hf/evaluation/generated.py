"""How good generated speech is: its words by a recogniser, its voice by a speaker encoder (extra `judge`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .judges import Recogniser, SpeakerEncoder, normalise_text, word_errors

Row = dict[str, Any]


@dataclass(frozen=True)
class Generated:
    """What a model said.

    Attributes:
        audio: float32 `(samples,)`, perhaps none at all.
        sampling_rate: Hz.
        text: what it was to say.
        voice: float32 `(samples,)`, a recording of the speaker that it was to sound like.
    """

    audio: np.ndarray
    sampling_rate: int
    text: str
    voice: np.ndarray


class Judge(Protocol):
    """Something that listens."""

    def __call__(self, generated: Generated) -> Row:
        """What it finds of one recording."""

    def score(self, rows: Sequence[Row]) -> float:
        """What it finds of all, from the rows that hold what it found of each."""

    def check(self, text: str) -> None:
        """Refuse a text that it cannot judge by."""


class WordJudge:
    """Word error rate: word errors over words.

    Args:
        recognise: audio `(samples,)` and rate to text.

    Raises:
        ImportError: the `judge` extra is not installed.
    """

    def __init__(self, recognise: Callable[[np.ndarray, int], str] | None = None) -> None:
        self.recognise = recognise or Recogniser()

    def __call__(self, generated: Generated) -> Row:
        heard = self.recognise(generated.audio, generated.sampling_rate)
        errors, words = word_errors(heard, generated.text)
        return {"heard": heard, "word_errors": errors, "words": words}

    def score(self, rows: Sequence[Row]) -> float:
        return sum(row["word_errors"] for row in rows) / sum(row["words"] for row in rows)

    def check(self, text: str) -> None:
        if not normalise_text(text):
            raise ValueError(f"the text {text!r} holds no word to count errors by; leave it out of the evaluation.")


class VoiceJudge:
    """Speaker similarity: the mean cosine between the voices of what was said and of the speaker.

    Args:
        embed: audio `(samples,)` and rate to a unit vector.

    Raises:
        ImportError: the `judge` extra or resemblyzer is not installed.
    """

    def __init__(self, embed: Callable[[np.ndarray, int], np.ndarray] | None = None) -> None:
        self.embed = embed or SpeakerEncoder()

    def __call__(self, generated: Generated) -> Row:
        if not len(generated.audio):
            # Nothing was said, in nobody's voice.
            return {"speaker_similarity": 0.0}
        ours, theirs = (self.embed(audio, generated.sampling_rate) for audio in (generated.audio, generated.voice))
        return {"speaker_similarity": float(ours @ theirs)}

    def score(self, rows: Sequence[Row]) -> float:
        return math.fsum(row["speaker_similarity"] for row in rows) / len(rows)

    def check(self, text: str) -> None:
        """Any will do."""


# Name of a score -> who gives it.
JUDGES: dict[str, type[Judge]] = {"wer": WordJudge, "speaker_similarity": VoiceJudge}

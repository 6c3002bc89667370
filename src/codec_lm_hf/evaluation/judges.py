"""Judges that listen: ViSQOL for quality, a recogniser for words, a speaker encoder for voices (extra `judge`).

All of them come from Python packages with their weights inside, so they run without a network. One package is not part
of the extra: resemblyzer asks for webrtcvad, which is compiled from source and then does not import beside a current
setuptools. The extra has webrtcvad-wheels in its place, so:

    pip install 'codec-lm-hf[judge]'
    pip install --no-deps resemblyzer==0.1.4
"""

from __future__ import annotations

import importlib
import importlib.util
import re

import numpy as np

from ..processing.audio import to_format

RATE = 16000
# Without silence around it the recogniser hears a filler word ("You", "Okay") first in one short clip of twenty.
_PADDING_SECONDS = 0.5
# Peak of what no one can hear; its level cannot be raised to that of speech.
_SILENCE = 1e-4
_INSTALL = "pip install 'codec-lm-hf[judge]'"


def available() -> bool:
    """Whether every judge can be used here."""
    packages = ("visqol", "ai_edge_litert", "moonshine_voice", "jiwer", "num2words", "librosa", "resemblyzer")
    return all(importlib.util.find_spec(name) is not None for name in packages)


def _need(name: str, install: str = _INSTALL):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this judge needs {error.name or name}: {install}.") from error


def _at_16_khz(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    return to_format(audio[None], sampling_rate, RATE, None)[0][0]


class Visqol:
    """ViSQOL v3 (Chinen et al., 2020) in speech mode with its lattice model: mean opinion score, 1 to 5.

    Raises:
        ImportError: the `judge` extra is not installed.
    """

    def __init__(self) -> None:
        visqol = _need("visqol")
        _need("ai_edge_litert")
        self._api = visqol.VisqolApi()
        self._api.create(mode="speech", use_lattice_model=True)

    def __call__(self, audio: np.ndarray, target: np.ndarray, sampling_rate: int) -> float:
        """Score `audio` against `target`, both `(samples,)`. NaN where there is too little speech to compare."""
        audio, target = (_at_16_khz(signal, sampling_rate).astype(np.float64) for signal in (audio, target))
        try:
            return float(self._api.measure_from_arrays(target, audio, RATE).moslqo)
        # How the package fails on what is too short or holds no active patch.
        except (ValueError, IndexError):
            return float("nan")


class Recogniser:
    """Moonshine tiny-en (Jeffries et al., 2024): English speech to text.

    Raises:
        ImportError: the `judge` extra is not installed.
    """

    def __init__(self) -> None:
        moonshine = _need("moonshine_voice")
        transcriber = _need("moonshine_voice.transcriber")
        self._model = transcriber.Transcriber(moonshine.get_model_path("tiny-en"), moonshine.ModelArch.TINY)

    def __call__(self, audio: np.ndarray, sampling_rate: int) -> str:
        """What is said in `audio` `(samples,)`, as the recogniser spells it."""
        padded = np.pad(_at_16_khz(audio, sampling_rate), round(_PADDING_SECONDS * RATE))
        return " ".join(line.text for line in self._model.transcribe_without_streaming(padded.tolist(), RATE).lines)


# A numeral can be read in more than one way: 1990 as a number, as a year, or digit by digit with "zero" or "oh".
_READINGS = ("cardinal", "year", "zero", "oh")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_UNITS = {"$": ("dollars", "cents"), "£": ("pounds", "pence"), "€": ("euros", "cents")}
_NUMERAL = re.compile(r"([$£€]?)(\d+(?:,\d{3})*)(\.\d+)?(st|nd|rd|th)?(%?)")


def normalise_text(text: str, reading: str = "cardinal") -> str:
    """Lower case, numerals as words, punctuation out: what word errors are counted on.

    Args:
        text: as a person or a recogniser spells it.
        reading: of whole numbers: "cardinal" (without "and"), "year", or digit by digit with "zero" or "oh". Numbers
            that begin with 0 or have more than 12 digits are always read digit by digit; ordinals ("20th") and
            decimals have one reading.

    Raises:
        ImportError: the `judge` extra is not installed.
    """
    num2words = _need("num2words").num2words

    def words(number: int, to: str = "cardinal") -> str:
        return re.sub(r"\band\b", " ", num2words(number, to=to))

    def one_by_one(digits: str, zero: str = "zero") -> str:
        return " ".join(zero if digit == "0" else DIGITS[int(digit)] for digit in digits)

    def spell(match: re.Match) -> str:
        currency, whole, fraction, ordinal, percent = match.groups()
        digits = whole.replace(",", "")
        if ordinal:
            spoken = words(int(digits), "ordinal")
        elif currency and fraction:
            unit, part = _UNITS[currency]
            return f" {words(int(digits))} {unit} and {words(int(fraction[1:]))} {part} "
        elif fraction:
            spoken = f"{words(int(digits))} point {one_by_one(fraction[1:])}"
        elif reading in ("zero", "oh") or (len(digits) > 1 and digits[0] == "0") or len(digits) > 12:
            spoken = one_by_one(digits, "oh" if reading == "oh" else "zero")
        else:
            spoken = words(int(digits), reading)
        unit = _UNITS[currency][0] if currency else "percent" if percent else ""
        return f" {spoken} {unit} "

    spelled = _NUMERAL.sub(spell, text.lower().replace("’", "'"))
    return " ".join(re.sub(r"[^a-z' ]", " ", spelled).split())


# Words that sound as a number does: which of them a recogniser writes says nothing of the voice.
_HOMOPHONES = {"to": "two", "too": "two", "for": "four", "fore": "four", "ate": "eight", "won": "one"}


def _sounds(text: str) -> str:
    return " ".join(_HOMOPHONES.get(word, word) for word in text.split())


def word_errors(heard: str, text: str, by_sound: bool = False) -> tuple[int, int]:
    """Word errors in `heard` and words in `text`, both after `normalise_text`.

    Text written in words cannot say how a numeral in `heard` was spoken, so the reading with the fewest errors counts.

    Args:
        heard: as a recogniser spells it.
        text: what should have been said.
        by_sound: "to", "too", "for", "fore", "ate" and "won" count as the numbers that sound like them.

    Raises:
        ImportError: the `judge` extra is not installed.
        ValueError: `text` holds no word.
    """
    jiwer = _need("jiwer")
    scores = []
    for reading in _READINGS:
        target = normalise_text(text, reading)
        if not target:
            raise ValueError(f"the transcript {text!r} holds no word to compare with; leave this recording out.")
        compared = target, normalise_text(heard, reading)
        result = jiwer.process_words(*(map(_sounds, compared) if by_sound else compared))
        errors = result.substitutions + result.deletions + result.insertions
        scores.append((errors, len(target.split())))
    return min(scores)


class SpeakerEncoder:
    """Resemblyzer's voice encoder (Wan et al., 2018, GE2E): a recording to a unit vector of 256 numbers.

    Raises:
        ImportError: the `judge` extra or resemblyzer is not installed.
    """

    def __init__(self) -> None:
        self._package = _need("resemblyzer", f"{_INSTALL} && pip install --no-deps resemblyzer==0.1.4")
        self._model = self._package.VoiceEncoder("cpu", verbose=False)

    def __call__(self, audio: np.ndarray, sampling_rate: int) -> np.ndarray:
        """The voice in `audio` `(samples,)`: float32 `(256,)`."""
        audio = _at_16_khz(audio, sampling_rate)
        if np.abs(audio).max() > _SILENCE:
            # Level and pauses as the encoder was trained; its 16-bit conversion wraps beyond full scale.
            speech = self._package.preprocess_wav(np.clip(audio, -1, 1))
            audio = speech if len(speech) else audio
        return self._model.embed_utterance(audio)


def nearest_speakers(voices: np.ndarray, originals: np.ndarray, speakers: list[str]) -> list[str | None]:
    """The speaker whose other recordings each voice is nearest to.

    Args:
        voices: `(clips, dim)` unit vectors, to judge.
        originals: `(clips, dim)` unit vectors of the same clips' originals.
        speakers: of each clip.

    Returns:
        For each clip the speaker whose centroid, over the originals of all clips but this one, has the largest cosine;
        `None` for the only clip of its speaker.
    """
    names = sorted(set(speakers))
    member = np.array([[speaker == name for name in names] for speaker in speakers])
    sums = originals.T @ member
    nearest: list[str | None] = []
    for voice, original, own in zip(voices, originals, member, strict=True):
        if member[:, own].sum() < 2:
            nearest.append(None)
            continue
        centroids = sums - np.outer(original, own)
        similarity = voice @ centroids / np.linalg.norm(centroids, axis=0).clip(min=1e-9)
        nearest.append(names[int(similarity.argmax())])
    return nearest

"""Texts as symbols: letters, phonemes by espeak-ng or by gruut, or those of a transcription."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"
WORD_BORDER = "_"
STRESS_MARKS = ("ˈ", "ˌ")
_PAUSES = set(",.;:!…—–")


def graphemes(text: str) -> list[str]:
    """The letters and marks of a text, lower case, and a border between words."""
    text = " ".join(unicodedata.normalize("NFC", text).lower().split())
    return [WORD_BORDER if letter == " " else letter for letter in text]


def phonemes(text: str, language: str = "en-us") -> list[str]:
    """The phonemes of a text, its punctuation, and a border between words.

    Args:
        text: in the spelling of the language.
        language: as espeak-ng calls it.

    Raises:
        ImportError: phonemizer or espeak-ng is missing.

    Source: `TextTokenizer` in `valle/data/tokenizer.py` of lifeiteng/vall-e.
    """
    try:
        from phonemizer.backend import EspeakBackend
        from phonemizer.punctuation import Punctuation
        from phonemizer.separator import Separator
    except ImportError as error:
        raise ImportError(
            "phonemes need phonemizer and espeak-ng: pip install 'codec-lm-hf[phonemes]', and install espeak-ng with "
            "the system's package manager. The frontend 'graphemes' needs neither."
        ) from error
    try:
        backend = EspeakBackend(
            language,
            punctuation_marks=Punctuation.default_marks(),
            preserve_punctuation=True,
            language_switch="keep-flags",
        )
    except RuntimeError as error:
        raise ImportError(f"espeak-ng is not installed, or does not know {language!r}: {error}") from error
    separator = Separator(word=WORD_BORDER, syllable="-", phone="|")
    spoken = backend.phonemize([text.strip()], separator=separator, strip=True, njobs=1)[0]
    symbols: list[str] = []
    for place, word in enumerate(spoken.split(WORD_BORDER)):
        found = [symbol for symbol in re.findall(r"\w+|[^\w\s]", word) if symbol != "|"]
        symbols += [WORD_BORDER, *found] if place else found
    return symbols


def gruut(text: str, language: str = "en-us") -> list[str]:
    """The phonemes of a text, stress with them, its pauses, and a border between words; numbers are spelled out.

    By gruut, a package with a lexicon and a model for other words, which needs no program beside it. Of punctuation
    only what is heard is left, so that a small corpus knows all of it: "?", and "," for every other mark between words
    at which a reader pauses.

    Args:
        text: in the spelling of the language.
        language: as gruut calls it.

    Raises:
        ImportError: gruut, or its files for another language, are missing.
    """
    try:
        from gruut import sentences
    except ImportError as error:
        raise ImportError(
            "these phonemes need gruut: pip install 'codec-lm-hf[gruut]'. The frontend 'graphemes' needs nothing."
        ) from error
    symbols: list[str] = []
    for word in (word for sentence in sentences(text, lang=language) for word in sentence):
        if not word.is_spoken:
            mark = "?" if "?" in word.text else "," if _PAUSES & set(word.text) else ""
            symbols += mark if symbols and symbols[-1] not in "?," else ""
        elif word.phonemes:
            symbols += [WORD_BORDER, *word.phonemes] if symbols else word.phonemes
    return symbols[:-1] if symbols and symbols[-1] == "," else symbols


def ipa(text: str) -> list[str]:
    """The sounds and marks of a text that is a phonetic transcription already, and a border between words.

    A stress mark goes with the letter after it, signs of length and diacritics with the one before them.
    """
    words = unicodedata.normalize("NFC", text).split()
    found = [re.findall(r"[ˈˌ]?[^ˈˌː\u0300-\u036f][ː\u0300-\u036f]*", word) for word in words]
    return [symbol for place, word in enumerate(found) for symbol in ([WORD_BORDER] if place else []) + word]


FRONTENDS = {"graphemes": graphemes, "phonemes": phonemes, "gruut": gruut, "ipa": ipa}


def frontend_named(name: str) -> Callable[[str], list[str]]:
    """What makes symbols of a text.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in FRONTENDS:
        raise ValueError(f"frontend must be one of {', '.join(map(repr, FRONTENDS))}, got {name!r}.")
    return FRONTENDS[name]


def symbol_table(texts: Iterable[Iterable[str]]) -> list[str]:
    """The table of a corpus of texts as symbols: padding, begin, end, and all symbols, sorted."""
    return [PAD, BEGIN, END, *sorted({symbol for text in texts for symbol in text})]

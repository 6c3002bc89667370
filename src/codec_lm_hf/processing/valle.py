"""Texts and prompts for VALL-E."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import BatchFeature

from ..configuration.lm_base import CodecLMConfig
from ..registry import family
from .codec_lm_processor import CodecLMProcessor
from .feature_extraction import as_list
from .tasks import Task
from .text import BEGIN, END, STRESS_MARKS, WORD_BORDER, frontend_named, symbol_table


@lru_cache(maxsize=1 << 16)
def _symbols(frontend: str, text: str) -> tuple[str, ...]:
    """Training reads a text in every epoch, and phonemes are slow to find."""
    return tuple(frontend_named(frontend)(text))


class ValleProcessor(CodecLMProcessor):
    """Texts to symbols, prompts to codes, codes to waveforms.

    Args:
        symbols: the table: padding, begin, end, then the symbols of the corpus, as `symbols_of` makes it. A model
            knows its symbols by their place here.
        frontend: `"graphemes"` (letters, needs nothing), `"phonemes"` (by espeak-ng and the package phonemizer),
            `"gruut"` (phonemes by the package of this name, which needs no other program) or `"ipa"` (texts are
            phonetic transcriptions already).
        prompt_seconds: how long prompts may be, from and to, where it is known what the model has learnt to hear.
        codec_name, codec_revision, num_codebooks, codebook_size, tasks: see `CodecLMProcessor`.
    """

    def __init__(
        self,
        symbols: Sequence[str] = (),
        frontend: str = "graphemes",
        codec_name: str | None = None,
        codec_revision: str | None = None,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        tasks: Sequence[str] = family("valle").tasks,
        prompt_seconds: Sequence[float] | None = None,
    ) -> None:
        super().__init__(codec_name, codec_revision, num_codebooks, codebook_size, tasks=tasks)
        frontend_named(frontend)
        self.symbols = list(symbols)
        self.frontend = frontend
        if prompt_seconds is not None and not (
            len(prompt_seconds) == 2 and 0 <= prompt_seconds[0] < prompt_seconds[1]
        ):
            raise ValueError(f"prompt_seconds must be two numbers, from and to, got {prompt_seconds!r}.")
        self.prompt_seconds = prompt_seconds

    @classmethod
    def for_corpus(cls, config: CodecLMConfig, texts: Iterable[str], **fields) -> ValleProcessor:
        """As in the base; the table of symbols is that of the texts, unless it is given."""
        processor = cls.from_config(config, **fields)
        if not processor.symbols:
            processor.symbols = cls.symbols_of(texts, processor.frontend)
        return processor

    @property
    def model_fields(self) -> dict[str, int]:
        return {"vocab_size": len(self.symbols)}

    @staticmethod
    def symbols_of(texts: Iterable[str], frontend: str = "graphemes") -> list[str]:
        """The table of symbols of a corpus, with the border between words, which also stands after a prompt's text."""
        return symbol_table([*map(frontend_named(frontend), texts), [WORD_BORDER]])

    def __call__(
        self,
        text: str | Sequence[str],
        audio=None,
        sampling_rate: int | None = None,
        prompt_text: str | Sequence[str] | None = None,
        prompt_codes=None,
        target_audio=None,
        target_codes=None,
        durations=None,
        prompt_durations=None,
        task: str | Task | None = None,
        truncation: bool = False,
        padding: bool | str = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Make what `forward` and `generate` take.

        Args:
            text: to be said, one or several.
            audio: prompts, one for each text: `(samples,)` or `(channels, samples)`, floats in [-1, 1].
            sampling_rate: Hz of `audio` and `target_audio`; another one than the codec's is converted.
            prompt_text: what the prompts say; nothing by default.
            prompt_codes: prompts as codes made before, `(codebooks, frames)` each.
            target_audio, target_codes: recordings of the texts, for training.
            durations: frames of the recordings that each symbol of their texts lasts, from begin to end, as
                `training.alignment` finds them; for models with `monotonic_alignment`.
            prompt_durations: likewise of the prompts and of `prompt_text`, nothing for a prompt without a text. The
                border between both texts is the end of the one and the begin of the other.
            task: one of `tasks`; it says what has to be given, and is checked.
            truncation: cut prompts that are longer than `prompt_seconds` allows.
            padding: only to the longest row, `True` or `"longest"`.
            return_tensors: only `"pt"`.

        Returns:
            `input_ids`, `attention_mask`, and as far as given `prompt_codes`, `prompt_text_lengths`, `labels`,
            `durations` and `prompt_durations`.

        Raises:
            ValueError: an empty text, an unknown symbol, another task, a prompt too short or too long, or things that
                do not fit each other.
        """
        self._check_format(padding, return_tensors)
        self._check_task(task, text=text, audio=prompt_codes if audio is None else audio)
        if audio is not None and self.prompt_seconds is not None:
            audio = self._prompts_to_hear(audio, sampling_rate, truncation)
        texts = self._rows_of_texts(text)
        spoken = [""] * len(texts) if prompt_text is None else prompt_text
        spoken = [spoken] if isinstance(spoken, str) else list(spoken)
        if len(spoken) != len(texts):
            raise ValueError(f"{len(spoken)} prompt texts for {len(texts)} texts; give one for each.")
        before = [self.tokenize(said) if said.strip() else [] for said in spoken]
        after = [self.tokenize(one) for one in texts]
        rows = [
            {"input_ids": self.symbol_ids([*said, *([WORD_BORDER] if said else []), *one])}
            for said, one in zip(before, after, strict=True)
        ]
        sources = {"prompt_codes": (audio, prompt_codes), "labels": (target_audio, target_codes)}
        for name, (sound, codes) in sources.items():
            if sound is not None or codes is not None:
                for row, found in zip(
                    rows, self._rows_of_codes(name, sound, codes, sampling_rate, len(rows)), strict=True
                ):
                    row[name] = found
        if "prompt_codes" in rows[0]:
            for row, said in zip(rows, before, strict=True):
                row["prompt_text_lengths"] = len(said) + 2
        if prompt_durations is not None:
            counts = [len(said) + 2 if said else 0 for said in before]
            for row, found in zip(rows, _checked_durations("prompt_durations", prompt_durations, counts), strict=True):
                row["prompt_durations"] = pad(found, (0, len(row["input_ids"]) - len(found)))
        if durations is not None:
            counts = [len(said) + 2 for said in after]
            for row, found in zip(rows, _checked_durations("durations", durations, counts), strict=True):
                row["durations"] = pad(found, (len(row["input_ids"]) - len(found), 0))
        return self.pad(rows)

    def _prompts_to_hear(self, audio, sampling_rate: int | None, truncation: bool) -> list[np.ndarray]:
        rate = self.codec.config.sampling_rate if sampling_rate is None else sampling_rate
        shortest, longest = self.prompt_seconds
        prompts = [np.asarray(one) for one in as_list(audio)]
        if rate <= 0:
            return prompts  # which the feature extractor refuses
        if truncation:
            prompts = [prompt[..., : round(longest * rate)] for prompt in prompts]
        for index, prompt in enumerate(prompts):
            seconds = prompt.shape[-1] / rate
            if not shortest <= seconds <= longest:
                way_out = "give a longer recording" if seconds < shortest else "cut it, as truncation=True does"
                raise ValueError(
                    f"prompt {index} lasts {seconds:g} s; this model has learnt to hear {shortest:g} to {longest:g} s "
                    f"(prompt_seconds of its processor): {way_out}."
                )
        return prompts

    def tokenize(self, text: str) -> list[str]:
        """A text as symbols, without begin and end.

        Raises:
            ValueError: there is nothing to say in it.
        """
        symbols = list(_symbols(self.frontend, text))
        if not symbols:
            raise ValueError(f"the text {text!r} has nothing to say; give at least one word.")
        return symbols

    def symbol_ids(self, symbols: Sequence[str]) -> torch.Tensor:
        """Ids of symbols, between those of begin and end.

        A sound that the table has with another stress only is taken with that.

        Raises:
            ValueError: a symbol that the table does not have.
        """
        places = {symbol: place for place, symbol in enumerate(self.symbols)}
        symbols = [_with_known_stress(symbol, places) for symbol in symbols]
        unknown = [symbol for symbol in symbols if symbol not in places]
        if unknown:
            raise ValueError(
                f"the symbols {sorted(set(unknown))} are not in this processor's table of {len(self.symbols)}; spell "
                f"the text otherwise (the frontend is {self.frontend!r}), or train with a corpus that has them."
            )
        return torch.tensor([places[symbol] for symbol in (BEGIN, *symbols, END)])


def _with_known_stress(symbol: str, known: Container[str]) -> str:
    sound = symbol.lstrip("".join(STRESS_MARKS))
    return next((one for one in (symbol, sound, *(mark + sound for mark in STRESS_MARKS)) if one in known), symbol)


def _checked_durations(name: str, durations, counts: Sequence[int]) -> list[torch.Tensor]:
    """Durations `(symbols,)` of each row, of one text or of several, as many as `counts` says."""
    single = len(durations) > 0 and torch.as_tensor(durations[0]).ndim == 0
    found = [torch.as_tensor(row, dtype=torch.long) for row in ([durations] if single else durations)]
    if [len(row) for row in found] != list(counts):
        raise ValueError(
            f"{name} must have {list(counts)} numbers, one for each symbol of each text with its begin and end (none "
            f"without a text); got {[len(row) for row in found]}."
        )
    return found

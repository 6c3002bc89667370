"""Texts and prompts for VALL-E."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from transformers import BatchFeature

from .codec_lm_processor import CodecLMProcessor
from .text import BEGIN, END, FRONTENDS, WORD_BORDER, symbol_table


class ValleProcessor(CodecLMProcessor):
    """Texts to symbols, prompts to codes, codes to waveforms.

    Args:
        symbols: the table: padding, begin, end, then the symbols of the corpus, as `symbols_of` makes it. A model
            knows its symbols by their place here.
        frontend: `"graphemes"` (letters, needs nothing) or `"phonemes"` (by espeak-ng and the package phonemizer).
        codec_name, codec_revision, num_codebooks, codebook_size: see `CodecLMProcessor`.
    """

    def __init__(
        self,
        symbols: Sequence[str] = (),
        frontend: str = "graphemes",
        codec_name: str | None = None,
        codec_revision: str | None = None,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
    ) -> None:
        super().__init__(codec_name, codec_revision, num_codebooks, codebook_size)
        if frontend not in FRONTENDS:
            raise ValueError(f"frontend must be one of {', '.join(map(repr, FRONTENDS))}, got {frontend!r}.")
        self.symbols = list(symbols)
        self.frontend = frontend

    @staticmethod
    def symbols_of(texts: Iterable[str], frontend: str = "graphemes") -> list[str]:
        """The table of symbols of a corpus."""
        return symbol_table(map(FRONTENDS[frontend], texts))

    def __call__(
        self,
        text: str | Sequence[str],
        audio=None,
        sampling_rate: int | None = None,
        prompt_text: str | Sequence[str] | None = None,
        prompt_codes=None,
        target_audio=None,
        target_codes=None,
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
            return_tensors: only `"pt"`.

        Returns:
            `input_ids`, `attention_mask`, and as far as given `prompt_codes`, `prompt_text_lengths` and `labels`.

        Raises:
            ValueError: an empty text, an unknown symbol, or things that do not fit each other.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}.")
        texts = self._rows_of_texts(text)
        spoken = [""] * len(texts) if prompt_text is None else prompt_text
        spoken = [spoken] if isinstance(spoken, str) else list(spoken)
        if len(spoken) != len(texts):
            raise ValueError(f"{len(spoken)} prompt texts for {len(texts)} texts; give one for each.")
        before = [self.tokenize(said) if said.strip() else [] for said in spoken]
        rows = [
            {"input_ids": self.symbol_ids([*said, *([WORD_BORDER] if said else []), *self.tokenize(one)])}
            for said, one in zip(before, texts, strict=True)
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
        return self.pad(rows)

    def tokenize(self, text: str) -> list[str]:
        """A text as symbols, without begin and end.

        Raises:
            ValueError: there is nothing to say in it.
        """
        symbols = FRONTENDS[self.frontend](text)
        if not symbols:
            raise ValueError(f"the text {text!r} has nothing to say; give at least one word.")
        return symbols

    def symbol_ids(self, symbols: Sequence[str]) -> torch.Tensor:
        """Ids of symbols, between those of begin and end.

        Raises:
            ValueError: a symbol that the table does not have.
        """
        places = {symbol: place for place, symbol in enumerate(self.symbols)}
        unknown = [symbol for symbol in symbols if symbol not in places]
        if unknown:
            raise ValueError(
                f"the symbols {sorted(set(unknown))} are not in this processor's table of {len(self.symbols)}; spell "
                f"the text otherwise (the frontend is {self.frontend!r}), or train with a corpus that has them."
            )
        return torch.tensor([places[symbol] for symbol in (BEGIN, *symbols, END)])

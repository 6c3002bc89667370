"""A T5 small enough to test with, and a tokenizer of its class for the words of a few texts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer

CAPTIONS = ["a calm piano tune", "rain on a roof", "dogs"]


def tiny_tokenizer(texts: Iterable[str] = CAPTIONS) -> T5Tokenizer:
    """A T5 tokenizer whose pieces are the words of some texts, and letters for other ones."""
    words = sorted({word for text in texts for word in text.lower().split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0)]
    pieces += [("\u2581" + word, -1.0) for word in words]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[])


def tiny_text_encoder(width: int = 12, symbols: int | None = None) -> T5EncoderModel:
    """A T5 encoder `width` wide, for `tiny_tokenizer` unless told otherwise."""
    torch.manual_seed(0)
    symbols = len(tiny_tokenizer()) if symbols is None else symbols
    config = T5Config(vocab_size=symbols, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()

"""VALL-E's two transformers: what both are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import Cache

from ..configuration.valle import ValleConfig
from .layers.alignment import AlignedSymbols
from .layers.attention import segment_mask
from .layers.factorized import FactorizedEmbedding, FactorizedHead
from .layers.linear import Linear
from .layers.positions import ScaledPositions
from .layers.prenet import ConvPrenet, LinearPrenet
from .layers.transformer import Transformer
from .lm_base import NO_CODE

# Three seconds of EnCodec's 75 frames: the longest prompt that training makes of an utterance (section 4.2.2).
LONGEST_PREFIX = 225


@dataclass
class Text:
    """Symbols `(batch, symbols)` and which are no padding; `prenet_valid`: what the prenet takes for padding.

    `without`, `(batch,)` bool: rows whose symbols are hidden, for guidance.
    """

    ids: Tensor
    valid: Tensor
    prenet_valid: Tensor | None
    without: Tensor | None = None

    def hidden(self, rows: Tensor, symbol: int) -> Text:
        """With `symbol` instead of all of the text in some rows, `(batch,)` bool."""
        return replace(self, ids=self.ids.masked_fill(rows[:, None], symbol), without=rows)

    def seen(self, said: Tensor) -> Tensor:
        """Of frames, those that are seen, where rows without their text see only what is `said`; both bool."""
        return torch.ones_like(said) if self.without is None else said | ~self.without[:, None]

    def twice(self, symbol: int) -> Text:
        """Twice as many rows, the second half hidden."""
        rows = len(self.ids)
        prenet_valid = None if self.prenet_valid is None else self.prenet_valid.repeat(2, 1)
        both = Text(self.ids.repeat(2, 1), self.valid.repeat(2, 1), prenet_valid)
        return both.hidden(torch.arange(2 * rows, device=self.ids.device) >= rows, symbol)


def _code_embedding(config: ValleConfig, size: int, dim: int) -> nn.Module:
    inner = config.code_embedding_size
    return nn.Embedding(size, dim) if inner is None else FactorizedEmbedding(size, dim, inner)


def _code_head(config: ValleConfig, dim: int, size: int) -> nn.Module:
    inner = config.code_embedding_size
    return Linear(dim, size, bias=False) if inner is None else FactorizedHead(dim, size, inner)


class ValleStage(nn.Module):
    """A transformer over text and codes, with its embeddings and heads.

    Args:
        config: of the model.
        sizes: `dim`, `num_heads` and `num_layers`.
        tables: entries of each table of code embeddings.
        heads: entries of each head.
        stages: conditions of the norms; 0: plain norms.
        text_dropout: after the positions of the text.
        causal: each frame sees the frames before it.
    """

    def __init__(
        self,
        config: ValleConfig,
        sizes: dict[str, int],
        tables: list[int],
        heads: list[int],
        stages: int = 0,
        text_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        dim = sizes["dim"]
        self.causal = causal
        self.as_memory = config.text_condition == "cross_attention"
        self.text_embedding = nn.Embedding(config.vocab_size, dim)
        self.audio_embeddings = nn.ModuleList([_code_embedding(config, size, dim) for size in tables])
        self.text_prenet = ConvPrenet(dim) if config.add_prenet else None
        self.audio_prenet = LinearPrenet(dim) if config.add_prenet else nn.Identity()
        self.text_positions = ScaledPositions(text_dropout, trainable=causal)
        self.audio_positions = ScaledPositions(config.dropout, trainable=causal)
        self.stage_embeddings = nn.ModuleList([nn.Embedding(1, dim) for _ in range(stages)])
        self.transformer = Transformer(
            **sizes,
            final_norm=config.norm_first,
            adaptive=stages > 0,
            feedforward=dim * config.intermediate_ratio,
            activation="relu",
            norm_first=config.norm_first,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
            cross_attention=self.as_memory,
            config=config,
        )
        self.heads = nn.ModuleList([_code_head(config, dim, size) for size in heads])
        self.aligned = self.advance = None
        if config.monotonic_alignment:
            self.aligned = AlignedSymbols(config.vocab_size, dim, config.alignment_context)
            self.advance = Linear(dim, config.max_advance + 1) if causal else None

    def embed_text(self, text: Text) -> Tensor:
        embedded = self.text_embedding(text.ids)
        if self.text_prenet is not None:
            embedded = self.text_prenet(embedded, text.prenet_valid)
        return self.text_positions(embedded, torch.arange(text.ids.shape[1], device=text.ids.device)[None])

    def embed_audio(
        self, embedded: Tensor, positions: Tensor, symbols: Tensor | None = None, positions_first: bool = False
    ) -> Tensor:
        """Embeddings of codes `(batch, frames, dim)` at `positions` `(batch or 1, frames)`, made ready.

        `symbols` of the same shape are those that the frames say, where the model is told. `positions_first`: they go
        through the prenet, too.
        """
        if positions_first:
            return self.audio_prenet(self.audio_positions(embedded, positions))
        embedded = self.audio_prenet(embedded)
        return self.audio_positions(embedded if symbols is None else embedded + symbols, positions)

    def forward(
        self,
        text: Text,
        audio: Tensor,
        audio_valid: Tensor,
        condition: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Text and what `embed_audio` gave to hidden states of the audio, both `(batch, frames, dim)`."""
        symbols, frames = text.ids.shape[1], audio.shape[1]
        embedded = self.embed_text(text)
        own: list = [(frames, "causal" if self.causal else "full")]
        if self.as_memory:
            mask = segment_mask(own, audio_valid)
            return self.transformer(audio, mask, condition, embedded, text.valid[:, None, None], cache)
        # A causal stage's text does not look at the codes; the other sees one segment.
        segments = [(symbols, "full"), *own] if self.causal else [(symbols + frames, "full")]
        mask = segment_mask(segments, torch.cat([text.valid, audio_valid], dim=1))
        hidden = self.transformer(torch.cat([embedded, audio], dim=1), mask, condition, past_key_values=cache)
        return hidden[:, symbols:]


class ArStage(ValleStage):
    """For the first codebook, code by code."""

    def __init__(self, config: ValleConfig) -> None:
        size = config.codebook_size
        super().__init__(
            config,
            {
                "dim": config.hidden_size,
                "num_heads": config.num_attention_heads,
                "num_layers": config.num_hidden_layers,
            },
            tables=[size + 1 + config.prepend_bos],
            heads=[size if config.monotonic_alignment else size + 1],
            text_dropout=config.dropout,
            causal=True,
        )
        self.code_dropout = config.code_dropout

    def embed_codes(
        self, codes: Tensor, positions: Tensor, symbols: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Codes `(batch, frames)` as `embed_audio` gives them; `seen`, of the same shape: which are not hidden."""
        embedded = self.audio_embeddings[0](codes)
        if seen is not None:
            embedded = embedded * seen[..., None]
        if self.training and self.code_dropout:
            drawn = torch.rand(codes.shape, device=codes.device) >= self.code_dropout
            embedded = embedded * drawn[..., None]
        return self.embed_audio(embedded, positions, symbols)


class NarStage(ValleStage):
    """For the other codebooks, each in one pass."""

    def __init__(self, config: ValleConfig) -> None:
        size, others = config.codebook_size, config.num_codebooks - 1
        tables, heads = [size + 1] + [size] * others, [size] * others
        super().__init__(config, config.nar_sizes, tables, heads, stages=others)
        self.end_id = config.end_id
        # Prefix mode 0 knows of the prompt what it knows of the rest.
        self.prompt_levels = None if config.prefix_mode == 0 else config.num_codebooks

    def level_logits(
        self,
        text: Text,
        prompt: Tensor,
        codes: Tensor,
        level: int,
        symbols: Tensor | None = None,
        positions_first: bool = False,
    ) -> Tensor:
        """What it says of a level.

        Args:
            text: that it reads.
            prompt: `(batch, codebooks, prompt frames)`.
            codes: `(batch, at least level, frames)`, of the levels before.
            level: from 1.
            symbols: with `monotonic_alignment`, `(batch, prompt frames + frames)`, the places of what they say.
            positions_first: see `embed_audio`.

        Returns:
            `(batch, frames, codebook_size)`.
        """
        voice = self._embed_levels(prompt, self.prompt_levels or level)
        told = None
        if symbols is not None:
            told = self.aligned.at(self.aligned(text.ids, text.valid), symbols)
            voice = voice * text.seen(torch.zeros_like(prompt[:, 0], dtype=torch.bool))[..., None]
        embedded = torch.cat([voice, self._embed_levels(codes, level)], dim=1)
        prompt_valid, valid = prompt[:, 0] != NO_CODE, codes[:, 0] != NO_CODE
        # Frames follow their row's prompt, whatever padding stands between them.
        before = torch.arange(prompt.shape[-1], device=codes.device).expand(len(codes), -1)
        after = prompt_valid.sum(1, keepdim=True) + torch.arange(codes.shape[-1], device=codes.device)
        audio = self.embed_audio(embedded, torch.cat([before, after], dim=1), told, positions_first)
        # Not its weight itself: what offloads weights puts them in place when a module is called.
        condition = self.stage_embeddings[level - 1](codes.new_zeros(1, 1))
        hidden = self(text, audio, torch.cat([prompt_valid, valid], dim=1), condition)
        return self.heads[level - 1](hidden[:, prompt.shape[-1] :])

    def _embed_levels(self, codes: Tensor, count: int) -> Tensor:
        """The embeddings of the first `count` levels, summed: `(batch, frames, dim)`."""
        first = codes[:, 0].where(codes[:, 0] != NO_CODE, self.end_id)
        embedded = self.audio_embeddings[0](first)
        for level in range(1, count):
            embedded = embedded + self.audio_embeddings[level](codes[:, level].clamp(min=0))
        return embedded

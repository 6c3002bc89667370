"""Codebooks: a table of vectors, the search in it, and how it learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from ..layers.precision import Float32Buffers
from ..layers.prepared import Prepared
from .kmeans import nearest


class Codebook(Prepared, Float32Buffers):
    """A table `embed` `(size, dim)` and the search for the nearest entry.

    It is float32 whatever the model's dtype is: nearest neighbours change with the precision.

    Args:
        size: entries.
        dim: length of an entry.
        normalized: compare directions only: nearest by cosine.
    """

    embed: Tensor

    def __init__(self, size: int, dim: int, normalized: bool = False) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        self.normalized = normalized

    def prepare(self) -> tuple[Tensor, Tensor]:
        """The entries as they are compared, and half their squared norms."""
        entries = self.embed.detach()
        if self.normalized:
            entries = F.normalize(entries)
        return entries, entries.square().sum(-1) / 2

    def encode(self, vectors: Tensor) -> Tensor:
        """`(..., dim)` to int64 indices `(...)`."""
        entries, norms = self.prepared
        flat = vectors.detach().reshape(-1, self.dim)
        if self.normalized:
            flat = F.normalize(flat)
        return nearest(flat, entries, norms).view(vectors.shape[:-1])

    def decode(self, index: Tensor) -> Tensor:
        """Int64 indices `(...)` to `(..., dim)`."""
        return F.embedding(index, self.embed)


class LearnedCodebook(Codebook):
    """A codebook whose entries are parameters, learnt by gradient as in VQ-VAE."""

    def __init__(self, size: int, dim: int, normalized: bool = False) -> None:
        super().__init__(size, dim, normalized)
        self.embed = nn.Parameter(torch.empty(size, dim))

    def reset(self) -> None:
        if self.normalized:
            # Directions evenly over the sphere; also what DAC starts from.
            init.normal_(self.embed)
        else:
            init.uniform_(self.embed, -1 / self.size, 1 / self.size)


class CodebookQuantizer(nn.Module):
    """A codebook over `(batch, dim, frames)`."""

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.codebook = codebook

    def encode(self, latents: Tensor) -> Tensor:
        """`(batch, dim, frames)` to codes `(batch, frames)`."""
        return self.codebook.encode(latents.transpose(1, 2))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `(batch, frames)` to `(batch, dim, frames)`."""
        return self.codebook.decode(codes).transpose(1, 2)


def mean_squared_error(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of `(batch, dim, frames)`, over the frames where `mask` `(batch, frames)` is true."""
    error = (x - y).square()
    if mask is None:
        return error.mean()
    return (error * mask[:, None]).sum() / (mask.sum() * error.shape[1]).clamp(min=1)

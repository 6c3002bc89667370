"""Vector and residual vector quantization with exponentially averaged codebooks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .codebook import Codebook, CodebookQuantizer, mean_squared_error
from .kmeans import broadcast, cluster_statistics, kmeans, sample_vectors


class QuantizerOutput(NamedTuple):
    """What a quantizer returns in training.

    Attributes:
        quantized: `(batch, dim, frames)`, with the gradient passed straight through to the input.
        codes: `(batch, codebooks, frames)` int64.
        commitment_loss: scalar: how far the input is from its codes, which draws the encoder.
        codebook_loss: scalar: the same distance, drawing the codes; `None` where codebooks follow moving averages.
        first_entries: `(batch, dim, frames)`, the entries that the first codebook of a residual quantizer chose,
            without gradient.
    """

    quantized: Tensor
    codes: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor | None = None
    first_entries: Tensor | None = None

    def first_codebook(self, latents: Tensor, gradient_scale: float = 1.0) -> Tensor:
        """`first_entries`, with `gradient_scale` of the gradient passed straight through to `latents`."""
        latents = latents.float() * gradient_scale
        return latents + (self.first_entries - latents).detach()


class EuclideanCodebook(Codebook):
    """A codebook that follows the vectors it is given: k-means on the first batch, then moving averages.

    Args:
        size: entries.
        dim: length of an entry.
        decay: of the moving averages.
        kmeans_iterations: on the first training batch of a fresh codebook; `None`: no k-means, its entries are then
            drawn from the normal distribution.
        revive_below: entries used less than this share of the average use are replaced by vectors of the batch; `None`
            keeps them. EnCodec has code for this too, but overwrites the replacement in the same step, so `None` is
            what it does.

    Source: `EuclideanCodebook` in `encodec/quantization/core_vq.py`.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        decay: float = 0.99,
        kmeans_iterations: int | None = 50,
        revive_below: float | None = None,
    ) -> None:
        super().__init__(size, dim)
        self.decay = decay
        self.kmeans_iterations = kmeans_iterations
        self.revive_below = revive_below
        self.register_buffer("inited", torch.zeros(1))
        self.register_buffer("cluster_size", torch.zeros(size))
        # Zeros, not noise: `start` fills them, and transformers wants buffers that need no random numbers.
        self.register_buffer("embed", torch.zeros(size, dim))
        self.register_buffer("embed_avg", torch.zeros(size, dim))

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Fill this codebook if it has never seen data: by k-means on `vectors` `(count, dim)`, or with noise."""
        if self.inited.item():
            return
        if self.kmeans_iterations is None:
            means, counts = broadcast(torch.randn_like(self.embed)), torch.zeros_like(self.cluster_size)
        else:
            means, counts = kmeans(vectors, self.size, self.kmeans_iterations)
        self.embed.copy_(means)
        self.embed_avg.copy_(means)
        self.cluster_size.copy_(counts)
        self.inited.fill_(1)

    def restart(self) -> None:
        """Forget what was learnt: the next vectors count as the first."""
        self.inited.zero_()

    @torch.no_grad()
    def update(self, vectors: Tensor, index: Tensor) -> None:
        """Move the entries towards the vectors `(count, dim)` that chose them (`index` `(count,)`)."""
        counts, sums = cluster_statistics(vectors, index, self.size)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        total, epsilon = self.cluster_size.sum(), 1e-5
        smoothed = (self.cluster_size + epsilon) / (total + self.size * epsilon) * total
        self.embed.copy_(self.embed_avg / smoothed[:, None])
        if self.revive_below is not None:
            self._revive(vectors)

    def _revive(self, vectors: Tensor) -> None:
        mean = self.cluster_size.mean()
        dead = self.cluster_size < self.revive_below * mean
        fresh = broadcast(sample_vectors(vectors, self.size))
        # Half the average use: enough to survive until the entry has found its place.
        self.embed.copy_(torch.where(dead[:, None], fresh, self.embed))
        self.embed_avg.copy_(torch.where(dead[:, None], fresh * mean / 2, self.embed_avg))
        self.cluster_size.copy_(torch.where(dead, mean / 2, self.cluster_size))


class VectorQuantizer(CodebookQuantizer):
    """One `EuclideanCodebook`, whose arguments it takes, over `(batch, dim, frames)`."""

    def __init__(self, size: int, dim: int, **codebook_options) -> None:
        super().__init__(EuclideanCodebook(size, dim, **codebook_options))

    def forward(self, latents: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize and, in training, learn.

        Args:
            latents: `(batch, dim, frames)` float32.
            mask: bool `(batch, frames)`; only these frames teach the codebook and count in the loss. `None`: all.

        Returns:
            The chosen entries `(batch, dim, frames)` without gradient, codes `(batch, frames)`, commitment loss.
        """
        vectors = latents.detach().transpose(1, 2)
        taught = vectors.reshape(-1, vectors.shape[-1]) if mask is None else vectors[mask]
        if self.training:
            self.codebook.start(taught)
        codes = self.codebook.encode(vectors)
        quantized = self.codebook.decode(codes).transpose(1, 2)
        if self.training:
            self.codebook.update(taught, codes.flatten() if mask is None else codes[mask])
        return quantized, codes, mean_squared_error(latents, quantized, mask)


class ResidualVectorQuantizer(nn.Module):
    """A chain of codebooks, each over what the ones before it left.

    Args:
        num_quantizers: codebooks.
        size, dim, **codebook_options: of each codebook, see `EuclideanCodebook`.
        residual_gradient: the commitment loss of every codebook reaches the input. Off is what EnCodec does (its
            issue 25): there only the first codebook's does, divided by their number.
        sum_losses: the commitment loss is the sum over the codebooks, as in AudioDec, instead of their mean.

    Source: SoundStream, section III-C; `encodec/quantization/core_vq.py`.
    """

    def __init__(
        self,
        num_quantizers: int,
        size: int,
        dim: int,
        residual_gradient: bool = False,
        sum_losses: bool = False,
        **codebook_options,
    ) -> None:
        super().__init__()
        self.residual_gradient = residual_gradient
        self.sum_losses = sum_losses
        self.layers = nn.ModuleList([VectorQuantizer(size, dim, **codebook_options) for _ in range(num_quantizers)])

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Fill the codebooks that have never seen data from `vectors` `(count, dim)`, one after the other."""
        for layer in self.layers:
            layer.codebook.start(vectors)
            vectors = vectors - layer.codebook.decode(layer.codebook.encode(vectors))

    def encode(self, latents: Tensor, num_quantizers: int | None = None, first: int = 0) -> Tensor:
        """Latents `(batch, dim, frames)` to codes `(batch, num_quantizers, frames)`, computed in float32.

        Args:
            latents: what the first codebook used quantizes.
            num_quantizers: codebooks to use; all from `first` on by default.
            first: the codebook to start with.
        """
        residual = latents.float().transpose(1, 2)
        codes = []
        with torch.autocast(latents.device.type, enabled=False):
            for layer in self.layers[first:][:num_quantizers]:
                index = layer.codebook.encode(residual)
                residual = residual - layer.codebook.decode(index)
                codes.append(index)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor, first: int = 0) -> Tensor:
        """Codes `(batch, codebooks, frames)` to latents `(batch, dim, frames)` float32; fewer codebooks are fine.

        Args:
            codes: of the codebooks from `first` on.
            first: the codebook that `codes[:, 0]` belong to.
        """
        quantized = self.layers[first].codebook.decode(codes[:, 0])
        for index, layer in zip(codes.unbind(1)[1:], self.layers[first + 1 :], strict=False):
            quantized = quantized + layer.codebook.decode(index)
        return quantized.transpose(1, 2)

    def forward(
        self, latents: Tensor, num_quantizers: int | Tensor | None = None, mask: Tensor | None = None
    ) -> QuantizerOutput:
        """Quantize for training: the codebooks learn if this module is in training mode.

        Args:
            latents: `(batch, dim, frames)`.
            num_quantizers: how many codebooks to use, for all rows or (int64 `(batch,)`) for each. Codebooks that a
                row does not use still learn from its residual.
            mask: bool `(batch, frames)`, true on valid frames.
        """
        per_row = num_quantizers if isinstance(num_quantizers, Tensor) else None
        residual = latents.float()
        total = torch.zeros_like(residual)
        codes, losses, first_entries = [], [], None
        with torch.autocast(latents.device.type, enabled=False):
            for position, layer in enumerate(self.layers if per_row is not None else self.layers[:num_quantizers]):
                quantized, index, loss = layer(residual, mask)
                taken = quantized if self.residual_gradient else residual + (quantized - residual).detach()
                residual = residual - taken
                total = total + (quantized if per_row is None else quantized * (per_row > position)[:, None, None])
                codes.append(index)
                losses.append(loss)
                first_entries = quantized if first_entries is None else first_entries
        quantized = latents.float() + (total - latents.float()).detach()
        losses = torch.stack(losses)
        loss = losses.sum() if self.sum_losses else losses.mean()
        return QuantizerOutput(
            quantized.to(latents.dtype), torch.stack(codes, dim=1), loss, first_entries=first_entries
        )

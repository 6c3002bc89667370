"""Residual quantization in spaces of few dimensions, by cosine: DAC's factorised codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.conv import Conv1d
from ..layers.precision import Float32Buffers
from .codebook import CodebookQuantizer, LearnedCodebook
from .vector import QuantizerOutput


class FactorizedVectorQuantizer(CodebookQuantizer):
    """One codebook behind a projection to few dimensions, and the projection back.

    The nearest entry is the one of nearest direction; its length counts only in the output. `encode` takes what
    `in_proj` gives, `decode` gives what `out_proj` takes.

    Args:
        dim: channels of the latents.
        size, codebook_dim: of the codebook.
        fused: build plain weights instead of the weight-norm pair.

    Source: `VectorQuantize` in `dac/nn/quantize.py`.
    """

    def __init__(self, dim: int, size: int, codebook_dim: int, fused: bool = False) -> None:
        super().__init__(LearnedCodebook(size, codebook_dim, normalized=True))
        self.in_proj = Conv1d(dim, codebook_dim, 1, norm_type="weight_norm", fused=fused)
        self.out_proj = Conv1d(codebook_dim, dim, 1, norm_type="weight_norm", fused=fused)


class FactorizedResidualQuantizer(Float32Buffers):
    """A chain of factorised codebooks, each over what the ones before it left.

    All of it, projections included, is float32 whatever the model's dtype is. The codebooks learn by gradient.

    Args:
        num_quantizers: codebooks.
        size: entries per codebook.
        dim: channels of the latents.
        codebook_dim: length of an entry, for all codebooks or one for each.
        fused: as in `FactorizedVectorQuantizer`.

    Source: Kumar et al., 2023, section 3.2; `ResidualVectorQuantize` in `dac/nn/quantize.py`.
    """

    def __init__(
        self, num_quantizers: int, size: int, dim: int, codebook_dim: int | Sequence[int], fused: bool = False
    ) -> None:
        super().__init__()
        dims = [codebook_dim] * num_quantizers if isinstance(codebook_dim, int) else codebook_dim
        self.layers = nn.ModuleList([FactorizedVectorQuantizer(dim, size, each, fused) for each in dims])

    def encode(self, latents: Tensor, num_quantizers: int | None = None) -> Tensor:
        """Latents `(batch, dim, frames)` to codes `(batch, num_quantizers, frames)`."""
        return self.project(latents, num_quantizers)[0]

    def project(self, latents: Tensor, num_quantizers: int | None = None) -> tuple[Tensor, Tensor]:
        """Codes, and what each codebook was asked for.

        Args:
            latents: `(batch, dim, frames)`.
            num_quantizers: codebooks to use; all by default.

        Returns:
            Codes `(batch, num_quantizers, frames)`; the projections before the search, of all codebooks one below the
            other, `(batch, sum of codebook_dim, frames)`, as `from_latents` takes them.
        """
        residual = latents.float()
        codes, projections = [], []
        with torch.autocast(latents.device.type, enabled=False):
            for layer in self.layers[:num_quantizers]:
                projected = layer.in_proj(residual)
                index = layer.encode(projected)
                residual = residual - layer.out_proj(layer.decode(index))
                codes.append(index)
                projections.append(projected)
        return torch.stack(codes, dim=1), torch.cat(projections, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `(batch, codebooks, frames)` to latents `(batch, dim, frames)` float32; fewer codebooks are fine."""
        return self.from_codes(codes)[0]

    def from_codes(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes to latents, as the original's method of this name returns them.

        Args:
            codes: `(batch, codebooks, frames)` of the first codebooks, any number of them.

        Returns:
            Latents `(batch, dim, frames)`; the entries chosen, `(batch, sum of codebook_dim, frames)`; `codes`.
        """
        entries = [layer.decode(index) for layer, index in zip(self.layers, codes.unbind(1), strict=False)]
        with torch.autocast(codes.device.type, enabled=False):
            parts = [layer.out_proj(entry) for layer, entry in zip(self.layers, entries, strict=False)]
        latents = parts[0]
        for part in parts[1:]:
            latents = latents + part
        return latents, torch.cat(entries, dim=1), codes

    def from_latents(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections, for example a model's predictions of them, to latents.

        Args:
            latents: `(batch, channels, frames)`, the projections of the first codebooks one below the other, as
                `project` returns them. Channels that do not fill a codebook are left out.

        Returns:
            As `from_codes`, with the codes found.

        Raises:
            ValueError: there are not even the channels of the first codebook.
        """
        codes, start = [], 0
        for layer in self.layers:
            end = start + layer.codebook.dim
            if end > latents.shape[1]:
                break
            codes.append(layer.encode(latents[:, start:end].float()))
            start = end
        if not codes:
            raise ValueError(
                f"latents has {latents.shape[1]} channels, fewer than the {self.layers[0].codebook.dim} of the first "
                "codebook; give the projections that project() returns."
            )
        return self.from_codes(torch.stack(codes, dim=1))

    def forward(
        self, latents: Tensor, num_quantizers: int | Tensor | None = None, mask: Tensor | None = None
    ) -> QuantizerOutput:
        """Quantize for training.

        The losses are means over a row, then over the rows, summed over the codebooks; a codebook that a row does not
        use counts as no loss of that row.

        Args:
            latents: `(batch, dim, frames)`.
            num_quantizers: how many codebooks to use, for all rows or (int64 `(batch,)`) for each. Codebooks that a
                row does not use still take their share of its residual.
            mask: bool `(batch, frames)`, true on valid frames.
        """
        per_row = num_quantizers if isinstance(num_quantizers, Tensor) else None
        residual = latents.float()
        total = torch.zeros_like(residual)
        codes, commitments, attractions = [], [], []
        with torch.autocast(latents.device.type, enabled=False):
            for position, layer in enumerate(self.layers if per_row is not None else self.layers[:num_quantizers]):
                projected = layer.in_proj(residual)
                index = layer.encode(projected)
                entry = layer.decode(index)
                part = layer.out_proj(projected + (entry - projected).detach())
                residual = residual - part
                used = 1.0 if per_row is None else (per_row > position).to(part.dtype)
                total = total + (part if per_row is None else part * used[:, None, None])
                commitments.append((_row_errors(projected, entry.detach(), mask) * used).mean())
                attractions.append((_row_errors(entry, projected.detach(), mask) * used).mean())
                codes.append(index)
        return QuantizerOutput(
            total.to(latents.dtype),
            torch.stack(codes, dim=1),
            commitment_loss=torch.stack(commitments).sum(),
            codebook_loss=torch.stack(attractions).sum(),
        )


def _row_errors(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared difference of each row of `(batch, dim, frames)`, over the frames where `mask` is true."""
    error = (x - y).square()
    if mask is None:
        return error.mean((1, 2))
    return (error * mask[:, None]).sum((1, 2)) / (mask.sum(-1) * error.shape[1]).clamp(min=1)

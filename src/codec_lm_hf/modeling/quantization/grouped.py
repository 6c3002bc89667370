"""Group-residual quantization: the channels in groups, each with a chain of codebooks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .codebook import CodebookQuantizer, LearnedCodebook, mean_squared_error
from .vector import QuantizerOutput


class GroupResidualQuantizer(nn.Module):
    """Codebooks for groups of channels, in several layers, each over what the layers before it left.

    Codes are ordered by layer, then by group: a prefix of them is a coarser code. A group that has no code in the last
    layer used gets nothing from it.

    Args:
        num_groups: parts of the channels.
        num_layers: codebooks of each part.
        size: entries of each codebook.
        dim: channels of the latents.

    Source: Yang et al., 2023, "HiFi-Codec", section 3.2; `Quantizer` in `academicodec/models/hificodec/models.py`.
    """

    def __init__(self, num_groups: int, num_layers: int, size: int, dim: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.group_dim = dim // num_groups
        self.layers = nn.ModuleList(
            [CodebookQuantizer(LearnedCodebook(size, self.group_dim)) for _ in range(num_groups * num_layers)]
        )

    def encode(self, latents: Tensor, num_quantizers: int | None = None) -> Tensor:
        """Latents `(batch, dim, frames)` to codes `(batch, num_quantizers, frames)`, computed in float32."""
        residuals = list(latents.float().split(self.group_dim, dim=1))
        codes = []
        with torch.autocast(latents.device.type, enabled=False):
            for position, layer in enumerate(self.layers[:num_quantizers]):
                group = position % self.num_groups
                index = layer.encode(residuals[group])
                residuals[group] = residuals[group] - layer.decode(index)
                codes.append(index)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `(batch, codebooks, frames)` to latents `(batch, dim, frames)` float32; fewer codebooks are fine."""
        groups = [codes.new_zeros(len(codes), self.group_dim, codes.shape[-1], dtype=torch.float32)] * self.num_groups
        for position, (index, layer) in enumerate(zip(codes.unbind(1), self.layers, strict=False)):
            group = position % self.num_groups
            groups[group] = groups[group] + layer.decode(index)
        return torch.cat(groups, dim=1)

    def forward(
        self, latents: Tensor, num_quantizers: int | Tensor | None = None, mask: Tensor | None = None
    ) -> QuantizerOutput:
        """Quantize for training.

        Args:
            latents: `(batch, dim, frames)`.
            num_quantizers: how many codebooks to use, for all rows or (int64 `(batch,)`) for each.
            mask: bool `(batch, frames)`, true on valid frames.

        Returns:
            The losses are means over codebooks. Only those of the first layer reach the latents: what it left is
            passed on without gradient.
        """
        per_row = num_quantizers if isinstance(num_quantizers, Tensor) else None
        used = self.layers if per_row is not None else self.layers[:num_quantizers]
        residuals = list(latents.float().split(self.group_dim, dim=1))
        totals = [torch.zeros_like(residual) for residual in residuals]
        codes, commitment, codebook = [], [], []
        with torch.autocast(latents.device.type, enabled=False):
            for position, layer in enumerate(used):
                group = position % self.num_groups
                residual = residuals[group]
                index = layer.encode(residual)
                entries = layer.decode(index)
                commitment.append(mean_squared_error(residual, entries.detach(), mask))
                codebook.append(mean_squared_error(entries, residual.detach(), mask))
                taken = entries.detach()
                residuals[group] = (residual - taken).detach()
                kept = taken if per_row is None else taken * (per_row > position)[:, None, None]
                totals[group] = totals[group] + kept
                codes.append(index)
        total = torch.cat(totals, dim=1)
        quantized = latents.float() + (total - latents.float()).detach()
        return QuantizerOutput(
            quantized.to(latents.dtype),
            torch.stack(codes, dim=1),
            torch.stack(commitment).mean(),
            torch.stack(codebook).mean(),
        )

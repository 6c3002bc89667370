"""What the parts of a discriminator share: norms of their convolutions, and a stack that hands out its activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import initialization as init

from ..layers.conv import picklable, weight_normed

Judgement = tuple[Tensor, tuple[Tensor, ...]]


class SpectralNorm(nn.Module):
    """Divides a weight by its largest singular value, as estimated by one power iteration per step of training.

    Args:
        rows, columns: of the weight as a matrix: out channels, and everything else.

    Source: Miyato et al., 2018, "Spectral Normalization for Generative Adversarial Networks"; vectors as in
    `torch.nn.utils.spectral_norm`, on which the originals are built.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.register_buffer("u", F.normalize(torch.ones(rows), dim=0))
        self.register_buffer("v", F.normalize(torch.ones(columns), dim=0))

    def reset(self) -> None:
        for vector in (self.u, self.v):
            init.normal_(vector)
            init.copy_(vector, F.normalize(vector, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        if self.training:
            with torch.no_grad():
                self.v.copy_(F.normalize(matrix.t() @ self.u, dim=0, eps=1e-12))
                self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=1e-12))
        # Copies, for they change before the gradient is computed where a step judges twice.
        return weight / torch.dot(self.u.clone(), torch.mv(matrix, self.v.clone()))


def normed(conv: nn.Conv1d | nn.Conv2d, norm_type: str) -> nn.Module:
    """`conv` with the norm of its weight that `norm_type` names (`"weight_norm"`, `"spectral_norm"` or `"none"`)."""
    if norm_type == "weight_norm":
        return weight_normed(conv)
    if norm_type == "spectral_norm":
        norm = SpectralNorm(conv.out_channels, conv.weight[0].numel())
        # `unsafe` skips a trial run, which would be the first power iteration.
        parametrize.register_parametrization(conv, "weight", norm, unsafe=True)
        picklable(conv)
    return conv


def has_spectral_norm(module: nn.Module) -> bool:
    """Whether spectral norm computes the weight of `module`."""
    if not parametrize.is_parametrized(module, "weight"):
        return False
    return isinstance(module.parametrizations.weight[0], SpectralNorm)


def run_stack(convs: Sequence[nn.Module], x: Tensor, negative_slope: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Convolutions, each followed by a leaky ReLU: the last activation, and all of them."""
    maps = []
    for conv in convs:
        x = F.leaky_relu(conv(x), negative_slope)
        maps.append(x)
    return x, tuple(maps)

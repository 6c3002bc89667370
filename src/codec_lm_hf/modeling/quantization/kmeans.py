"""k-means over the vectors of a batch, to start a codebook from data."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

_CHUNK = 16384


def world_size() -> int:
    """Processes of a distributed run; 1 outside of one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum `tensor` over the processes of a distributed run, in place; nothing to do in a single process."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast(tensor: Tensor) -> Tensor:
    """Give every process the tensor of the first one, in place."""
    if world_size() > 1:
        dist.broadcast(tensor, 0)
    return tensor


def nearest(vectors: Tensor, codebook: Tensor, half_squared_norms: Tensor | None = None) -> Tensor:
    """Index of the nearest entry by Euclidean distance, the first one on ties.

    Args:
        vectors: `(count, dim)`.
        codebook: `(size, dim)`.
        half_squared_norms: `(size,)`, half the squared norm of each entry, if known beforehand.

    Returns:
        int64 of shape `(count,)`.
    """
    if half_squared_norms is None:
        half_squared_norms = codebook.square().sum(-1) / 2
    if torch.compiler.is_compiling() or len(vectors) <= _CHUNK:
        return _nearest(vectors, codebook, half_squared_norms)
    return torch.cat([_nearest(part, codebook, half_squared_norms) for part in vectors.split(_CHUNK)])


def _nearest(vectors: Tensor, codebook: Tensor, half_squared_norms: Tensor) -> Tensor:
    # On a CPU `max` finds the index in less than half the time of `argmax`.
    return torch.addmm(-half_squared_norms, vectors, codebook.t()).max(-1).indices


def sample_vectors(vectors: Tensor, count: int) -> Tensor:
    """Draw `count` rows of `vectors`: without replacement where there are enough."""
    if len(vectors) >= count:
        index = torch.randperm(len(vectors), device=vectors.device)[:count]
    else:
        index = torch.randint(0, len(vectors), (count,), device=vectors.device)
    return vectors[index]


def cluster_statistics(vectors: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Number `(size,)` and sum `(size, dim)` of the vectors assigned to each entry, over all processes."""
    counts = torch.bincount(index, minlength=size).to(vectors.dtype)
    sums = vectors.new_zeros(size, vectors.shape[-1]).index_add_(0, index, vectors)
    return all_reduce(counts), all_reduce(sums)


def kmeans(vectors: Tensor, num_clusters: int, iterations: int, means: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from randomly drawn vectors; empty clusters keep their mean.

    Args:
        vectors: `(count, dim)`, this process's share.
        num_clusters: entries.
        iterations: rounds of assignment and update.
        means: starting means `(num_clusters, dim)`; drawn from `vectors` (of the first process) if not given.

    Returns:
        means `(num_clusters, dim)` and the number of members of each at the last assignment `(num_clusters,)`.

    Source: `kmeans` in `encodec/quantization/core_vq.py`.
    """
    if means is None:
        means = broadcast(sample_vectors(vectors, num_clusters))
    counts = vectors.new_zeros(num_clusters)
    for _ in range(iterations):
        counts, sums = cluster_statistics(vectors, nearest(vectors, means), num_clusters)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
    return means, counts

"""EnCodec's loss balancer: weights say how much of the gradient a loss gets, whatever its scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..modeling.quantization.kmeans import all_reduce, world_size


class Balancer:
    """Combines the gradients of several losses with respect to one tensor.

    Each loss's gradient is divided by a moving average of its norm and multiplied by its share of `total_norm`.

    Args:
        weights: relative weight of each loss.
        total_norm: norm of the combined gradient.
        ema_decay: of the moving averages of the norms.
        per_batch_item: a norm is the mean over the items of a batch instead of that of the whole gradient.
        rescale_grads: off gives the plain weighted sum.
        epsilon: added to the averaged norms.

    Source: EnCodec, section 3.4; `encodec/balancer.py`.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        total_norm: float = 1.0,
        ema_decay: float = 0.999,
        per_batch_item: bool = True,
        rescale_grads: bool = True,
        epsilon: float = 1e-12,
    ) -> None:
        self.weights = dict(weights)
        self.total_norm = total_norm
        self.ema_decay = ema_decay
        self.per_batch_item = per_batch_item
        self.rescale_grads = rescale_grads
        self.epsilon = epsilon
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self.ratios: dict[str, float] = {}

    def gradient(self, losses: Mapping[str, Tensor], audio: Tensor) -> Tensor:
        """The combined gradient with respect to `audio`, of its shape; `self.ratios` then holds each loss's share.

        Args:
            losses: scalars that depend on `audio`; their names are keys of `weights`.
            audio: `(batch, ...)`, the codec's output.

        Raises:
            ValueError: a loss has no weight.
        """
        unknown = sorted(set(losses) - set(self.weights))
        if unknown:
            raise ValueError(f"losses {unknown} have no weight; weights are given for {sorted(self.weights)}.")
        gradients = {name: torch.autograd.grad(loss, [audio], retain_graph=True)[0] for name, loss in losses.items()}
        sizes = torch.stack([self._size(gradient) for gradient in gradients.values()])
        # The same norms, and so the same state, in every process of a distributed run.
        sizes = all_reduce(sizes) / world_size()
        norms = {name: self._average(name, size) for name, size in zip(gradients, sizes.tolist(), strict=True)}
        total = sum(norms.values())
        self.ratios = {name: norm / total if total else 0.0 for name, norm in norms.items()}
        share = sum(self.weights[name] for name in losses)
        combined = torch.zeros_like(audio)
        for name, gradient in gradients.items():
            if self.rescale_grads:
                scale = self.weights[name] / share * self.total_norm / (self.epsilon + norms[name])
            else:
                scale = self.weights[name]
            combined += gradient * scale
        return combined

    def _size(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(1).norm(dim=1).mean() if self.per_batch_item else gradient.norm()

    def _average(self, name: str, value: float) -> float:
        self._sums[name] = self._sums.get(name, 0.0) * self.ema_decay + value
        self._counts[name] = self._counts.get(name, 0.0) * self.ema_decay + 1.0
        return self._sums[name] / self._counts[name]

    def state_dict(self) -> dict:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict) -> None:
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

"""What the `evaluate` modules of this package share."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np

INPUTS = """
Args:
    predictions: list of decoded recordings, each `(samples,)`.
    references: list of the originals, as long as their predictions.
    sampling_rate: Hz of all of them; 16000 by default.

Returns:
    The mean over all recordings for which the metric can be computed, under the metric's name.
"""


class PairMetric(evaluate.Metric):
    """Mean of `score` over pairs of a decoded recording and its original."""

    def score(self, audio: np.ndarray, target: np.ndarray, sampling_rate: int) -> float:
        """The metric of one pair, both `(samples,)`; NaN where it cannot be computed."""
        raise NotImplementedError(f"{type(self).__name__} must define score.")

    def _info(self) -> evaluate.MetricInfo:
        signal = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": signal, "references": signal}),
        )

    def _compute(self, predictions, references, sampling_rate: int = 16000) -> dict[str, float]:
        pairs = zip(predictions, references, strict=True)
        scores = [self.score(*(np.asarray(x, np.float32) for x in pair), sampling_rate) for pair in pairs]
        finite = [score for score in scores if np.isfinite(score)]
        return {self.name: float(np.mean(finite)) if finite else float("nan")}

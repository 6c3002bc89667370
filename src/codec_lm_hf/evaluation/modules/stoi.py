"""`evaluate.load(codec_lm_hf.evaluation.module("stoi"))`."""

from codec_lm_hf.evaluation import metrics, pair_metric


class Stoi(pair_metric.PairMetric):
    """Short-time objective intelligibility, about 0 to 1; higher is better."""

    def score(self, audio, target, sampling_rate):
        return metrics.stoi(audio, target, sampling_rate)

"""`evaluate.load(codec_lm_hf.evaluation.module("pesq_wb"))`."""

from codec_lm_hf.evaluation import metrics, pair_metric


class PesqWb(pair_metric.PairMetric):
    """Wide-band PESQ, 1.0 to 4.6; higher is better."""

    def score(self, audio, target, sampling_rate):
        return metrics.pesq_wb(audio, target, sampling_rate)

"""`evaluate.load(codec_lm_hf.evaluation.module("si_sdr"))`."""

from codec_lm_hf.evaluation import metrics, pair_metric


class SiSdr(pair_metric.PairMetric):
    """Scale-invariant signal-to-distortion ratio in dB; higher is better."""

    def score(self, audio, target, sampling_rate):
        return metrics.si_sdr(audio, target)

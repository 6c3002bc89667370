"""`evaluate.load(codec_lm_hf.evaluation.module("log_mel_distance"))`."""

from codec_lm_hf.evaluation import metrics, pair_metric


class LogMelDistance(pair_metric.PairMetric):
    """Mean absolute difference of log mel spectra in dB; lower is better."""

    def score(self, audio, target, sampling_rate):
        return metrics.log_mel_distance(audio, target, sampling_rate)

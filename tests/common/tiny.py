"""One table of tiny config / model / feature-extractor triples; every common test runs over all of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

import codec_lm_hf
from codec_lm_hf.modeling.quantization import EuclideanCodebook, LearnedCodebook
from codec_lm_hf.registry import family


@dataclass(frozen=True)
class TinyCase:
    """A configuration small enough to test everything with.

    Attributes:
        family: of the registry.
        fields: of the configuration.
    """

    family: str
    fields: dict = field(default_factory=dict)

    def config(self, **overrides):
        return family(self.family).load("config")(**{**self.fields, **overrides})

    @property
    def model_class(self):
        return family(self.family).load("model")

    def model(self, **overrides):
        """A model in eval mode whose codebooks are spread out as if trained, so that codes vary."""
        torch.manual_seed(0)
        model = self.model_class(self.config(**overrides)).eval()
        for module in model.modules():
            if isinstance(module, EuclideanCodebook):
                module.embed.normal_(0, 0.3)
                module.embed_avg.copy_(module.embed)
                module.cluster_size.fill_(1)
                module.inited.fill_(1)
            if isinstance(module, LearnedCodebook):
                torch.nn.init.normal_(module.embed, 0, 0.3)
        return model

    def feature_extractor(self):
        config = self.config()
        return codec_lm_hf.CodecFeatureExtractor(config.audio_channels, config.sampling_rate)


_LYRA_FLOAT = {
    "hidden_size": 16,
    "channels": (8, 8, 16, 32),
    "arithmetic": "float",
    "num_quantizers": 4,
    "kmeans_iterations": 2,
    "target_bandwidths": (0.2, 0.4, 0.8),
}

_AUDIODEC = {
    "sampling_rate": 12000,
    "encoder_channels": 4,
    "encoder_ratios": (2, 3, 4),
    "encoder_strides": (3, 4, 5),
    "decoder_channels": 4,
    "decoder_ratios": (4, 3, 2),
    "decoder_strides": (5, 4, 3),
    "hidden_size": 16,
    "codebook_size": 64,
    "num_quantizers": 4,
}
_AUDIODEC_VOCODER = {
    **_AUDIODEC,
    "decoder_type": "vocoder",
    "vocoder_channels": 32,
    "vocoder_ratios": (5, 4, 3),
    "vocoder_residual_kernel_sizes": (5,),
}
_ENCODEC = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64, "num_quantizers": 4}
_DAC = {
    "sampling_rate": 16000,
    "encoder_hidden_size": 4,
    "decoder_hidden_size": 32,
    "n_codebooks": 4,
    "codebook_size": 64,
    "codebook_dim": 4,
}
_SPEECHTOKENIZER = {**_ENCODEC, "kmeans_iterations": 2}
_FUNCODEC = {"num_filters": 4, "hidden_size": 16, "codebook_size": 64, "num_quantizers": 4, "kmeans_iterations": 2}
_HIFICODEC = {
    "hidden_size": 16,
    "encoder_channels": 4,
    "encoder_norm_channels": 4,
    "decoder_channels": 32,
    "upsampling_ratios": (5, 4),
    "upsampling_kernel_sizes": (11, 8),
    "residual_kernel_sizes": (3, 5),
    "residual_dilations": ((1, 3), (1, 3)),
    "codebook_size": 64,
}
_FREQCODEC = {
    **_FUNCODEC,
    "domain": "mag_phase",
    "window_size": 64,
    "stft_hop_length": 40,
    "frequency_ratios": (4, 4, 2),
    "upsampling_ratios": (2, 3, 1),
    "num_lstm_layers": 1,
}

TINY: dict[str, TinyCase] = {
    "audiodec": TinyCase("audiodec", _AUDIODEC),
    "audiodec-activations": TinyCase(
        "audiodec",
        {
            **_AUDIODEC,
            "activation": "leaky_relu",
            "use_outer_activations": True,
            "use_strided_bias": False,
            "norm_type": "weight_norm",
            "decoder_pad_mode": "constant",
        },
    ),
    # No published model is so.
    "audiodec-noncausal": TinyCase(
        "audiodec", {**_AUDIODEC, "use_causal_conv": False, "activation": "leaky_relu", "negative_slope": 0.1}
    ),
    "audiodec-vocoder": TinyCase("audiodec", _AUDIODEC_VOCODER),
    "audiodec-vocoder-fusion": TinyCase(
        "audiodec",
        {
            **_AUDIODEC_VOCODER,
            "vocoder_groups": 2,
            "vocoder_paired_convolutions": False,
            "vocoder_norm_type": "none",
            "vocoder_residual_kernel_sizes": (3, 5),
            "vocoder_residual_dilations": ((1, 3), (1,)),
        },
    ),
    "encodec": TinyCase("encodec", {**_ENCODEC, "target_bandwidths": (0.45, 0.9, 1.8)}),
    "encodec-noncausal": TinyCase(
        "encodec",
        {
            **_ENCODEC,
            "target_bandwidths": (0.45, 0.9, 1.8),
            "use_causal_conv": False,
            "use_conv_shortcut": False,
        },
    ),
    "encodec-segments": TinyCase(
        "encodec",
        {
            **_ENCODEC,
            "target_bandwidths": (1.05, 2.1, 3.6),
            "upsampling_ratios": (5, 4, 2, 2),
            "sampling_rate": 12000,
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 0.4,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
        },
    ),
    "soundstream": TinyCase(
        "soundstream",
        {
            "num_filters": 4,
            "hidden_size": 16,
            "codebook_size": 64,
            "num_quantizers": 4,
            "kmeans_iterations": 2,
            "denoising": "encoder",
        },
    ),
    "soundstream_lyra": TinyCase(
        "soundstream_lyra",
        {
            "target_bandwidths": (0.2, 0.4, 0.8),
            "hidden_size": 16,
            "channels": (8, 8, 16, 32),
            "num_quantizers": 4,
            "kmeans_iterations": 2,
        },
    ),
    "soundstream_lyra-taught": TinyCase(
        "soundstream_lyra",
        {
            **_LYRA_FLOAT,
            "semantic_hidden_size": 12,
        },
    ),
    "soundstream_lyra-context": TinyCase(
        "soundstream_lyra",
        {
            **_LYRA_FLOAT,
            "encoder_context_layers": 1,
            "decoder_context_layers": 2,
            "context_size": 24,
        },
    ),
    "hificodec": TinyCase("hificodec", _HIFICODEC),
    "hificodec-segments": TinyCase("hificodec", {**_HIFICODEC, "chunk_length_s": 0.3, "overlap": 0.1}),
    "dac": TinyCase("dac", {**_DAC, "downsampling_ratios": (2, 4, 5)}),
    "dac-latent": TinyCase(
        "dac",
        {
            **_DAC,
            "downsampling_ratios": (3, 4, 5),
            "upsampling_ratios": (4, 5, 3),
            "hidden_size": 12,
            "codebook_dim": (8, 4, 6, 2),
        },
    ),
    "speechtokenizer": TinyCase("speechtokenizer", {**_SPEECHTOKENIZER, "semantic_hidden_size": 12}),
    "speechtokenizer-snake": TinyCase(
        "speechtokenizer",
        {**_SPEECHTOKENIZER, "semantic_hidden_size": 16, "activation": "snake", "bidirectional_lstm": False},
    ),
    "funcodec": TinyCase("funcodec", _FUNCODEC),
    "funcodec-ds640": TinyCase(
        "funcodec", {**_FUNCODEC, "upsampling_ratios": (8, 5, 4, 2, 2), "quantizer_choices": (2, 4)}
    ),
    "funcodec-segments": TinyCase("funcodec", {**_FUNCODEC, "chunk_length_s": 0.3, "overlap": 0.1}),
    # The recipe soundstream_16k_n32 without the normalisation, which needs the whole signal.
    "funcodec-causal": TinyCase(
        "funcodec",
        {
            **_FUNCODEC,
            "normalize": False,
            "norm_type": "weight_norm",
            "use_causal_conv": True,
            "num_residual_layers": 3,
            "num_lstm_layers": 0,
        },
    ),
    "funcodec-magphase": TinyCase(
        "funcodec",
        {**_FREQCODEC, "encoder_group_ratio": 1, "decoder_group_ratio": 1, "transposed_group_ratio": 1},
    ),
    # Padding by the signal's length, with zeros, where no norm looks at the whole signal.
    "funcodec-magangle": TinyCase(
        "funcodec",
        {
            **_FREQCODEC,
            "domain": "mag_angle",
            "robust_angles": True,
            "pad_mode": "constant",
            "norm_type": "weight_norm",
        },
    ),
    "funcodec-magphase-causal": TinyCase(
        "funcodec",
        {
            **_FREQCODEC,
            "normalize": False,
            "activation": "snake",
            "norm_type": "weight_norm",
            "use_causal_conv": True,
        },
    ),
    # A network over time whose channels are bins.
    "funcodec-stft": TinyCase(
        "funcodec",
        {
            **_FREQCODEC,
            "domain": "stft",
            "frequency_ratios": None,
            "normalize": False,
            "norm_type": "weight_norm",
        },
    ),
    "stft_codec": TinyCase(
        "stft_codec",
        {
            "hidden_size": 16,
            "latent_size": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "codebook_size": 64,
            "num_quantizers": 4,
            "kmeans_iterations": 2,
        },
    ),
}

# These look at the whole signal, or a whole segment, at once.
_WHOLE = {
    "audiodec-noncausal",
    "encodec-segments",
    "funcodec",
    "funcodec-ds640",
    "funcodec-magangle",
    "funcodec-magphase",
    "funcodec-segments",
    "hificodec",
    "hificodec-segments",
}
# Those whose layers all take streams, so that long audio runs in tiles; one of them waits for the end of the stream.
TILEABLE = [name for name in TINY if name not in _WHOLE]
STREAMABLE = [name for name in TILEABLE if name != "speechtokenizer"]

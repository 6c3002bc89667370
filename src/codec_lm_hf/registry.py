"""The table of families. It imports nothing, so any room may read it; everything that lists families reads it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One row: a config / model / processor triple and what belongs to it, by dotted name.

    Attributes:
        name: the family, as in file names.
        kind: `"codec"`, `"lm"`, `"entropy_lm"` or `"discriminator"`.
        title: what the paper calls it.
        config, model: `module:Class` below this package.
        processor: `module:Class` of the feature extractor or processor, if there is one.
        converter: module below `conversion_scripts` that reads the original checkpoints, if any were published.
        parity: the systems under `parity/` whose cases this family has a part in.
        layouts: published checkpoints (`system/variant` under `layouts/`) that the converter reads;
            `system/variant+variant` where two files make one model.
        weights_license: licence of the published weights, as far as their publisher states one.
        paper: where it was published.
        summary: one line on what this port has been checked against.
        native: model_types of transformers' own models whose checkpoints this family reads as well.
        tasks: what a language model is for, by the names of `processing.tasks.Task`; the first one by default.
    """

    name: str
    kind: str
    title: str
    config: str
    model: str
    processor: str | None
    converter: str | None
    parity: tuple[str, ...]
    layouts: tuple[str, ...]
    weights_license: str
    paper: str
    summary: str
    native: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    def load(self, role: str) -> type:
        """The class named by `config`, `model` or `processor`."""
        module, name = getattr(self, role).split(":")
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)


_FEATURES = "processing.feature_extraction:CodecFeatureExtractor"

FAMILIES: tuple[Family, ...] = (
    Family(
        name="encodec",
        kind="codec",
        title="EnCodec",
        config="configuration.encodec:EncodecCodecConfig",
        model="modeling.encodec:EncodecCodecModel",
        processor=_FEATURES,
        converter="encodec",
        parity=("encodec",),
        layouts=(
            "encodec/encodec_24khz",
            "encodec/encodec_48khz",
            "hificodec/Encodec_16k_320d",
            "hificodec/Encodec_24k_240d",
            "hificodec/Encodec_24k_32d",
            "musicgen/compression_encodec_32khz",
            "audiogen/compression_encodec_16khz",
        ),
        weights_license="not stated by the publisher (the repository's MIT licence is for its code)",
        paper="Défossez et al., 2022, High Fidelity Neural Audio Compression",
        summary="codes, audio, training and plain .ecdc streams equal runs of the original; native checkpoints load",
        native=("encodec",),
    ),
    Family(
        name="encodec_entropy_lm",
        kind="entropy_lm",
        title="EnCodec's entropy model",
        config="configuration.encodec_entropy_lm:EncodecEntropyLMConfig",
        model="modeling.encodec_entropy_lm:EncodecEntropyLMModel",
        processor=None,
        converter="encodec_entropy_lm",
        parity=("encodec",),
        layouts=("encodec/encodec_lm_24khz", "encodec/encodec_lm_48khz"),
        weights_license="not stated by the publisher (the repository's MIT licence is for its code)",
        paper="Défossez et al., 2022, High Fidelity Neural Audio Compression",
        summary="probabilities equal runs of the original, .ecdc bytes equal its program's on the same machine",
    ),
    Family(
        name="soundstream",
        kind="codec",
        title="SoundStream",
        config="configuration.soundstream:SoundStreamConfig",
        model="modeling.soundstream:SoundStreamModel",
        processor=_FEATURES,
        converter=None,
        parity=(),
        layouts=(),
        weights_license="none were published",
        paper="Zeghidour et al., 2021, SoundStream: An End-to-End Neural Audio Codec",
        summary="built from the paper; there is no original implementation to compare with",
    ),
    Family(
        name="soundstream_lyra",
        kind="codec",
        title="SoundStream in Lyra V2",
        config="configuration.soundstream_lyra:LyraCodecConfig",
        model="modeling.soundstream_lyra:LyraCodecModel",
        processor=_FEATURES,
        converter="soundstream_lyra",
        parity=("soundstream_lyra",),
        layouts=(),
        weights_license="Apache-2.0",
        paper="google/lyra 1.3.2 (2022); Zeghidour et al., 2021, SoundStream: An End-to-End Neural Audio Codec",
        summary="with the released weights, codes, packets and audio equal TensorFlow Lite's reference kernels",
    ),
    Family(
        name="audiodec",
        kind="codec",
        title="AudioDec",
        config="configuration.audiodec:AudioDecCodecConfig",
        model="modeling.audiodec:AudioDecCodecModel",
        processor=_FEATURES,
        converter="audiodec",
        parity=("audiodec",),
        layouts=(
            "audiodec/symAD_libritts_24000_hop300",
            "audiodec/symAD_vctk_48000_hop300",
            "audiodec/symADuniv_vctk_48000_hop300",
            "audiodec/symAAD_vctk_48000_hop300",
            "audiodec/symAD_c16_vctk_48000_hop320",
            "audiodec/denoise_symAD_vctk_48000_hop300",
            "audiodec/symAD_libritts_24000_hop300+AudioDec_v1_symAD_libritts_24000_hop300_clean",
            "audiodec/symAD_vctk_48000_hop300+AudioDec_v0_symAD_vctk_48000_hop300_clean",
            "audiodec/symAD_vctk_48000_hop300+AudioDec_v1_symAD_vctk_48000_hop300_clean",
            "audiodec/symAD_vctk_48000_hop300+AudioDec_v2_symAD_vctk_48000_hop300_clean",
            "audiodec/symADuniv_vctk_48000_hop300+AudioDec_v3_symADuniv_vctk_48000_hop300_clean",
        ),
        weights_license="not stated by the publisher (the repository's CC BY-NC 4.0 is for its code)",
        paper="Wu et al., 2023, AudioDec: An Open-source Streaming High-fidelity Neural Audio Codec",
        summary="codes, audio, streams and the quantizer's training equal runs of the original",
    ),
    Family(
        name="hificodec",
        kind="codec",
        title="HiFi-Codec",
        config="configuration.hificodec:HifiCodecConfig",
        model="modeling.hificodec:HifiCodecModel",
        processor=_FEATURES,
        converter="hificodec",
        parity=("hificodec",),
        layouts=(
            "hificodec/HiFi-Codec-16k-320d",
            "hificodec/HiFi-Codec-16k-320d-large-universal",
            "hificodec/HiFi-Codec-24k-320d",
            "hificodec/HiFi-Codec-24k-240d",
        ),
        weights_license="MIT according to the readme, which names no file; nothing is said of the weights",
        paper="Yang et al., 2023, HiFi-Codec: Group-residual Vector quantization for High Fidelity Audio Codec",
        summary="codes, audio, training and discriminators equal runs of the original",
    ),
    Family(
        name="dac",
        kind="codec",
        title="DAC",
        config="configuration.dac:DacCodecConfig",
        model="modeling.dac:DacCodecModel",
        processor=_FEATURES,
        converter="dac",
        parity=("dac",),
        layouts=("dac/dac_16khz", "dac/dac_24khz", "dac/dac_44khz", "dac/dac_44khz_16kbps"),
        weights_license="MIT",
        paper="Kumar et al., 2023, High-Fidelity Audio Compression with Improved RVQGAN",
        summary="codes, audio, training losses and .dac files equal runs of the original; native checkpoints load",
        native=("dac",),
    ),
    Family(
        name="speechtokenizer",
        kind="codec",
        title="SpeechTokenizer",
        config="configuration.speechtokenizer:SpeechTokenizerConfig",
        model="modeling.speechtokenizer:SpeechTokenizerModel",
        processor=_FEATURES,
        converter="speechtokenizer",
        parity=("speechtokenizer",),
        layouts=("speechtokenizer/speechtokenizer_hubert_avg", "speechtokenizer/speechtokenizer_snake"),
        weights_license="not stated by the publisher (the repository's Apache-2.0 licence is for its code)",
        paper="Zhang et al., 2023, SpeechTokenizer: Unified Speech Tokenizer for Speech Language Models",
        summary="codes, spans of codebooks, audio, a training step and distillation equal runs of the original",
    ),
    Family(
        name="funcodec",
        kind="codec",
        title="FunCodec",
        config="configuration.funcodec:FunCodecConfig",
        model="modeling.funcodec:FunCodecModel",
        processor=_FEATURES,
        converter="funcodec",
        parity=("funcodec",),
        layouts=(
            "funcodec/audio_codec-encodec-en-libritts-16k-nq32ds320",
            "funcodec/audio_codec-encodec-en-libritts-16k-nq32ds640",
            "funcodec/audio_codec-encodec-zh_en-general-16k-nq32ds320",
            "funcodec/audio_codec-encodec-zh_en-general-16k-nq32ds640",
            "funcodec/audio_codec-freqcodec_magphase-en-libritts-16k-gr1nq32ds320",
            "funcodec/audio_codec-freqcodec_magphase-en-libritts-16k-gr8nq32ds320.candidate",
            "funcodec/recipe_freqcodec_mag_phase_16k_n32",
            "funcodec/recipe_soundstream_16k_n32",
        ),
        weights_license="not read: its model cards were not available (the repository's MIT licence is for its code)",
        paper="Du et al., 2023, FunCodec: A Fundamental, Reproducible and Integrable Open-source Toolkit for Neural "
        "Speech Codec",
        summary="codes, audio, training, losses and discriminators equal runs of the original, in both domains",
    ),
    Family(
        name="stft_codec",
        kind="codec",
        title="STFT codec",
        config="configuration.stft_codec:StftCodecConfig",
        model="modeling.stft_codec:StftCodecModel",
        processor=_FEATURES,
        converter=None,
        parity=(),
        layouts=(),
        weights_license="none are published",
        paper="not a published system: frequency-domain frames as in FunCodec and Vocos, trainable on a CPU",
        summary="not one of the survey's published checkpoints; its recipe says what one CPU core trained it to",
    ),
    Family(
        name="valle",
        kind="lm",
        title="VALL-E",
        config="configuration.valle:ValleConfig",
        model="modeling.valle:ValleForConditionalGeneration",
        processor="processing.valle:ValleProcessor",
        converter="valle",
        parity=("valle",),
        layouts=(
            "valle/libritts_readme_default",
            "valle/cli_defaults_prefix0",
            "valle/add_prenet_bos",
            "valle/vallf_1024_12",
        ),
        weights_license="none were published",
        paper="Wang et al., 2023, Neural Codec Language Models are Zero-Shot Text to Speech Synthesizers",
        summary="greedy codes, losses and logits (but in a few frames, see its page) equal runs of lifeiteng/vall-e",
        tasks=("TTS",),
    ),
    Family(
        name="musicgen",
        kind="lm",
        title="MusicGen",
        config="configuration.musicgen:MusicGenLMConfig",
        model="modeling.musicgen:MusicGenLMForConditionalGeneration",
        processor="processing.musicgen:MusicGenLMProcessor",
        converter="musicgen",
        parity=("musicgen",),
        layouts=(
            "musicgen/musicgen-small",
            "musicgen/musicgen-medium",
            "musicgen/musicgen-large",
            "musicgen/musicgen-melody",
            "musicgen/musicgen-melody-large",
            "musicgen/musicgen-stereo-small",
            "musicgen/musicgen-stereo-medium",
            "musicgen/musicgen-stereo-large",
            "musicgen/musicgen-stereo-melody",
            "musicgen/musicgen-stereo-melody-large",
        ),
        weights_license="CC-BY-NC-4.0",
        paper="Copet et al., 2023, Simple and Controllable Music Generation",
        summary="logits, losses and greedy, continued and windowed codes equal runs of audiocraft",
        native=("musicgen", "musicgen_melody"),
        tasks=("MG", "SG"),
    ),
    Family(
        name="audiogen",
        kind="lm",
        title="AudioGen",
        config="configuration.audiogen:AudioGenLMConfig",
        model="modeling.audiogen:AudioGenLMForConditionalGeneration",
        processor="processing.musicgen:MusicGenLMProcessor",
        converter="audiogen",
        parity=("audiogen",),
        layouts=("audiogen/audiogen-medium",),
        weights_license="CC-BY-NC-4.0",
        paper="Kreuk et al., 2022, AudioGen: Textually Guided Audio Generation",
        summary="logits, losses and greedy and continued codes of the released model equal runs of audiocraft",
        tasks=("TTSO", "AC"),
    ),
    Family(
        name="discriminator",
        kind="discriminator",
        title="Discriminators",
        config="configuration.discriminators:CodecDiscriminatorConfig",
        model="modeling.discriminators:CodecDiscriminator",
        processor=None,
        converter="discriminator",
        parity=("encodec", "audiodec", "hificodec", "dac", "speechtokenizer", "funcodec"),
        layouts=(
            "encodec/msstft_discriminator_reference",
            "hificodec/discriminators",
            "dac/discriminator_16khz",
            "dac/discriminator_44khz",
            "dac/discriminator_msd_option",
            "speechtokenizer/trainer_discriminators",
        ),
        weights_license="none were published",
        paper="the codecs' own: EnCodec, HiFi-GAN (also UnivNet's and Descript's)",
        summary="logits and feature maps equal runs of the originals",
    ),
)


def family(name: str) -> Family:
    """The row of a family.

    Raises:
        ValueError: there is no such family.
    """
    for row in FAMILIES:
        if row.name == name:
            return row
    raise ValueError(f"unknown family {name!r}; choose one of {', '.join(row.name for row in FAMILIES)}.")


def family_of(model_type: str) -> Family | None:
    """The row that reads checkpoints of this `model_type`, ours or transformers' own, if any."""
    return next((row for row in FAMILIES if model_type in (row.load("config").model_type, *row.native)), None)

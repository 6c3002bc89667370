"""The survey's two tables of codecs, worked out from our configurations and the models they build.

Wu et al., 2024, "Towards Audio Language Modeling: An Overview", tables 1 and 2. Which variants its rows are, and on
what each was trained, is stated here, for no configuration knows it; every other cell is computed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from ..configuration.codec_base import CodecConfig
from ..modeling.layers.snake import Snake
from ..modeling.quantization import EuclideanCodebook
from ..registry import FAMILIES, family

_DAC_DATA = "DAPS, VCTK, VocalSet, Common Voice, MUSDB, Jamendo, AudioSet and more speech"
_HIFI_DATA = "LibriTTS, VCTK, AISHELL"
_FUNCODEC = "audio_codec-"


@dataclass(frozen=True)
class SurveyRow:
    """One published variant.

    Attributes:
        label: the survey's letter and our count within it; empty for variants outside the survey.
        family, preset: what it is here.
        data: what it was trained on, as far as its publisher says.
        bandwidth: the rate in kbps that the row stands for, where the model offers several.
    """

    label: str
    family: str
    preset: str
    data: str
    bandwidth: float | None = None

    @property
    def config(self) -> CodecConfig:
        return family(self.family).load("config").from_preset(self.preset)


ROWS: tuple[SurveyRow, ...] = (
    SurveyRow("A", "speechtokenizer", "speechtokenizer_hubert_avg", "LibriSpeech"),
    SurveyRow("B1", "hificodec", "HiFi-Codec-16k-320d", _HIFI_DATA),
    SurveyRow("B2", "hificodec", "HiFi-Codec-16k-320d-large-universal", "not stated"),
    SurveyRow("B3", "hificodec", "HiFi-Codec-24k-320d", _HIFI_DATA),
    SurveyRow("C", "audiodec", "symAD_libritts_24000_hop300", "LibriTTS"),
    SurveyRow("D1", "dac", "dac_16khz", _DAC_DATA),
    SurveyRow("D2", "dac", "dac_24khz", _DAC_DATA),
    SurveyRow("D3", "dac", "dac_44khz", _DAC_DATA),
    SurveyRow("E", "encodec", "encodec_24khz", "DNS, Common Voice, AudioSet, FSD50K, Jamendo", bandwidth=6.0),
    SurveyRow("F1", "funcodec", f"{_FUNCODEC}freqcodec_magphase-en-libritts-16k-gr1nq32ds320", "LibriTTS"),
    SurveyRow("F2", "funcodec", f"{_FUNCODEC}freqcodec_magphase-en-libritts-16k-gr8nq32ds320", "LibriTTS"),
    SurveyRow("F3", "funcodec", f"{_FUNCODEC}encodec-en-libritts-16k-nq32ds320", "LibriTTS"),
    SurveyRow("F4", "funcodec", f"{_FUNCODEC}encodec-en-libritts-16k-nq32ds640", "LibriTTS"),
    SurveyRow("F5", "funcodec", f"{_FUNCODEC}encodec-zh_en-general-16k-nq32ds320", "Chinese and English speech"),
    SurveyRow("F6", "funcodec", f"{_FUNCODEC}encodec-zh_en-general-16k-nq32ds640", "Chinese and English speech"),
    SurveyRow("", "speechtokenizer", "speechtokenizer_snake", "LibriSpeech, Common Voice"),
    SurveyRow("", "hificodec", "HiFi-Codec-24k-240d", _HIFI_DATA),
    SurveyRow("", "audiodec", "symAD_vctk_48000_hop300", "VCTK"),
    SurveyRow("", "audiodec", "denoise_symAD_vctk_48000_hop300", "VCTK, noisy and clean"),
    SurveyRow("", "dac", "dac_44khz_16kbps", _DAC_DATA),
    SurveyRow("", "encodec", "encodec_48khz", "music", bandwidth=6.0),
    SurveyRow("", "encodec", "encodec_32khz", "music (MusicGen's)"),
)

FLAGS = ("SEM", "SNAKE", "MRG", "NOISY", "LM", "KM")


@functools.cache
def flags(row: SurveyRow) -> dict[str, bool]:
    """Table 2: what the variant `row` is made of.

    Returns:
        By name: SEM, its codes carry semantic tokens; SNAKE, snake activations; MRG, several residual groups; NOISY,
        it learnt to code noisy speech clean; LM, a language model of its codes belongs to it; KM, k-means starts its
        codebooks. All but NOISY follow from the configuration; that one is a matter of training, and of AudioDec's
        denoising encoder only its preset's name tells.
    """
    config = row.config
    with torch.device("meta"):
        modules = list(family(row.family).load("model")(config).modules())
    return {
        "SEM": bool(getattr(config, "semantic_hidden_size", None) or getattr(config, "semantic_mode", None)),
        "SNAKE": any(isinstance(module, Snake) for module in modules),
        "MRG": getattr(config, "num_code_groups", 1) > 1,
        "NOISY": row.preset.startswith("denoise_") or getattr(config, "denoising", "none") != "none",
        "LM": _has_language_model(row),
        "KM": any(isinstance(module, EuclideanCodebook) and module.kmeans_iterations for module in modules),
    }


def _has_language_model(row: SurveyRow) -> bool:
    """Whether an entropy model of the same family is there for the same variant (`encodec_24khz`: its `24khz`)."""
    companions = [other for other in FAMILIES if other.name == f"{row.family}_entropy_lm"]
    variant = row.preset.rsplit("_", 1)[-1]
    return any(name.endswith(variant) for other in companions for name in other.load("config").presets)


def _mark(row: SurveyRow, name: str) -> str:
    """`x`: the variant has it; `o`: it does not, but its family can."""
    if flags(row)[name]:
        return "x"
    relatives = [other for other in ROWS if other.family == row.family]
    optional = name == "SEM" and hasattr(row.config, "semantic_mode")
    return "o" if optional or any(flags(other)[name] for other in relatives) else ""


def markdown_tables() -> str:
    """Both tables as Markdown: figures and training data, then flags (`x`; `o` where only the family has it)."""
    lines = [
        "| row | family | variant | n_c | Hz | kbps | training data |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        config = row.config
        count = config.num_codebooks if row.bandwidth is None else config.num_quantizers_for(row.bandwidth)
        lines.append(
            f"| {row.label} | {family(row.family).title} | `{row.preset}` | {count} | {config.sampling_rate} | "
            f"{config.bandwidth_of(count):.4g} | {row.data} |"
        )
    lines += ["", "| row | variant | " + " | ".join(FLAGS) + " |", "|---|---|" + "---|" * len(FLAGS)]
    for row in ROWS:
        marks = " | ".join(_mark(row, name) for name in FLAGS)
        lines.append(f"| {row.label} | `{row.preset}` | {marks} |")
    return "\n".join(lines)

"""SpeechTokenizer's files: a bare state dict with a `config.json` beside it, or a checkpoint of its trainer."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..configuration.speechtokenizer import SpeechTokenizerConfig
from ..modeling.speechtokenizer import SpeechTokenizerModel
from .engine import ConversionError, Converter, read_checkpoint
from .seanet import SEANET_RULES

RULES = [*SEANET_RULES, (r"transform\.(weight|bias)", r"semantic_projection.\1")]

# The original's name of a field -> ours.
_FIELDS = {
    "n_filters": "num_filters",
    "strides": "upsampling_ratios",
    "dimension": "hidden_size",
    "semantic_dimension": "semantic_hidden_size",
    "bidirectional": "bidirectional_lstm",
    "dilation_base": "dilation_growth_rate",
    "residual_kernel_size": "residual_kernel_size",
    "n_residual_layers": "num_residual_layers",
    "lstm_layers": "num_lstm_layers",
    "codebook_size": "codebook_size",
    "n_q": "num_quantizers",
    "sample_rate": "sampling_rate",
}
_ACTIVATIONS = {"ELU": "elu", "Snake": "snake"}


def config_from_original(original: dict) -> SpeechTokenizerConfig:
    """The model's part of the original's JSON; what it says of the training is not needed.

    Raises:
        ConversionError: a field of the model is missing, or has a value that no published model has.
    """
    missing = sorted({*_FIELDS, "activation"} - set(original))
    if missing:
        raise ConversionError(f"SpeechTokenizer's configuration lacks {missing}; give the one beside the checkpoint.")
    if original["activation"] not in _ACTIVATIONS:
        raise ConversionError(
            f"activation={original['activation']!r} is not supported; published models have one of "
            f"{sorted(_ACTIVATIONS)}."
        )
    fields = {ours: original[theirs] for theirs, ours in _FIELDS.items()}
    return SpeechTokenizerConfig(activation=_ACTIVATIONS[original["activation"]], **fields)


def read(path: Path) -> dict[str, Tensor]:
    """The codec's state; a checkpoint of the original's trainer holds it as `generator`."""
    state = read_checkpoint(path)
    return state.get("generator", state)


CONVERTER = Converter(SpeechTokenizerConfig, SpeechTokenizerModel, RULES, config_from_original, read)

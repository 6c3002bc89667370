"""The `.th` files of EnCodec's entropy-coding language model: a bare state dict, no configuration beside it."""

from __future__ import annotations

from ..configuration.encodec_entropy_lm import EncodecEntropyLMConfig
from ..modeling.encodec_entropy_lm import EncodecEntropyLMModel
from .engine import ConversionError, Converter

_LAYER = r"transformer\.layers\.(\d+)"

RULES = [
    (r"transformer\.norm_in\.(weight|bias)", r"transformer.norm_in.\1"),
    (_LAYER + r"\.self_attn\.in_proj_(weight|bias)", r"transformer.layers.\1.attention.in_proj.\2"),
    (_LAYER + r"\.self_attn\.out_proj\.(weight|bias)", r"transformer.layers.\1.attention.out_proj.\2"),
    (_LAYER + r"\.linear1\.(weight|bias)", r"transformer.layers.\1.feedforward_in.\2"),
    (_LAYER + r"\.linear2\.(weight|bias)", r"transformer.layers.\1.feedforward_out.\2"),
    (_LAYER + r"\.norm1\.(weight|bias)", r"transformer.layers.\1.attention_norm.\2"),
    (_LAYER + r"\.norm2\.(weight|bias)", r"transformer.layers.\1.feedforward_norm.\2"),
    (r"emb\.(\d+)\.weight", r"embeddings.\1.weight"),
    (r"linears\.(\d+)\.(weight|bias)", r"heads.\1.\2"),
]

# The original's name of a constructor argument -> ours, and its default there.
_FIELDS = {
    "n_q": ("num_codebooks", 32),
    "card": ("codebook_size", 1024),
    "dim": ("hidden_size", 200),
    "num_layers": ("num_hidden_layers", 5),
    "num_heads": ("num_attention_heads", 8),
    "norm_in": ("norm_in", True),
    "norm_first": ("norm_first", False),
    "dropout": ("dropout", 0.0),
    "past_context": ("past_context", 1000),
    "max_period": ("max_period", 10_000),
}


def config_from_original(original: dict) -> EncodecEntropyLMConfig:
    """The constructor arguments of the original to our configuration.

    Raises:
        ConversionError: an argument that is unknown.
    """
    known = {*_FIELDS, "hidden_scale", "gelu"}
    unknown = sorted(set(original) - known)
    if unknown:
        raise ConversionError(f"EnCodec's language model has no argument {unknown[0]!r}; known: {sorted(known)}.")
    fields = {ours: original.get(name, default) for name, (ours, default) in _FIELDS.items()}
    fields["intermediate_size"] = int(fields["hidden_size"] * original.get("hidden_scale", 4.0))
    fields["hidden_act"] = "gelu" if original.get("gelu", True) else "relu"
    return EncodecEntropyLMConfig(**fields)


CONVERTER = Converter(EncodecEntropyLMConfig, EncodecEntropyLMModel, RULES, config_from_original)

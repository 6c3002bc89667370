"""Key rules of codecs that keep EnCodec's modules: SEANet and its residual quantizer."""

from __future__ import annotations

# Some were saved from several processes.
_WRAPPED = r"(?:module\.)?(encoder|decoder)\.model\.(\d+(?:\.block\.\d+|\.shortcut)?)"

SEANET_RULES = [
    (_WRAPPED + r"\.(?:conv\.conv|convtr\.convtr)\.weight_g", r"\1.layers.\2.conv.parametrizations.weight.original0"),
    (_WRAPPED + r"\.(?:conv\.conv|convtr\.convtr)\.weight_v", r"\1.layers.\2.conv.parametrizations.weight.original1"),
    (_WRAPPED + r"\.(?:conv\.conv|convtr\.convtr)\.(weight|bias)", r"\1.layers.\2.conv.\3"),
    (_WRAPPED + r"\.(?:conv|convtr)\.norm\.(weight|bias)", r"\1.layers.\2.norm.\3"),
    (_WRAPPED + r"\.alpha", r"\1.layers.\2.alpha"),
    (r"(?:module\.)?(encoder|decoder)\.model\.(\d+)\.lstm\.(.+)", r"\1.layers.\2.lstm.\3"),
    (r"(?:module\.)?quantizer\.vq\.layers\.(\d+)\._codebook\.(.+)", r"quantizer.layers.\1.codebook.\2"),
]

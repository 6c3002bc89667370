"""Checkpoints of lifeiteng/vall-e: a state dict under `model`, and beside it how it was trained."""

from __future__ import annotations

import pathlib
from pathlib import Path

from torch import Tensor
from torch.torch_version import TorchVersion

from ..configuration.valle import ValleConfig
from ..modeling.valle import ValleForConditionalGeneration
from .engine import ConversionError, Converter, State, read_checkpoint

_STAGE = "(ar|nar)"
_LAYER = _STAGE + r"_decoder\.layers\.(\d+)"


def rules(config: ValleConfig) -> list[tuple[str, str | None]]:
    """The keys of both transformers; with cross-attention the norms have other numbers."""
    cross = config.text_condition == "cross_attention"
    norms = {"attention_norm": 1, "cross_attention_norm": 2, "feedforward_norm": 3} if cross else {}
    norms = norms or {"attention_norm": 1, "feedforward_norm": 2}
    norm_rules = []
    for name, number in norms.items():
        layer, ours = _LAYER + rf"\.norm{number}\.", rf"\1.transformer.layers.\2.{name}"
        norm_rules += _norm_rules(layer, ours, r"\3")
    # The original makes this table of the second transformer even where there is no such one.
    unused = [(r"nar_text_embedding\..+", None)] if config.num_codebooks == 1 else []
    return [
        *unused,
        (_STAGE + r"_text_embedding\.word_embeddings\.weight", r"\1.text_embedding.weight"),
        (_STAGE + r"_audio_embedding\.word_embeddings\.weight", r"\1.audio_embeddings.0.weight"),
        (_STAGE + r"_audio_embeddings\.(\d+)\.word_embeddings\.weight", r"\1.audio_embeddings.\2.weight"),
        (_STAGE + r"_stage_embeddings\.(\d+)\.word_embeddings\.weight", r"\1.stage_embeddings.\2.weight"),
        (_STAGE + r"_(text|audio)_position\.alpha", r"\1.\2_positions.alpha"),
        *_prenet_rules(),
        (_LAYER + r"\.self_attn\.in_proj_(weight|bias)", r"\1.transformer.layers.\2.attention.in_proj.\3"),
        (_LAYER + r"\.self_attn\.out_proj\.(weight|bias)", r"\1.transformer.layers.\2.attention.out_proj.\3"),
        (_LAYER + r"\.multihead_attn\.in_proj_(weight|bias)", r"\1.transformer.layers.\2.cross_attention.in_proj.\3"),
        (
            _LAYER + r"\.multihead_attn\.out_proj\.(weight|bias)",
            r"\1.transformer.layers.\2.cross_attention.out_proj.\3",
        ),
        (_LAYER + r"\.linear1\.(weight|bias)", r"\1.transformer.layers.\2.feedforward_in.\3"),
        (_LAYER + r"\.linear2\.(weight|bias)", r"\1.transformer.layers.\2.feedforward_out.\3"),
        *norm_rules,
        *_norm_rules(_STAGE + r"_decoder\.norm\.", r"\1.transformer.norm", r"\2"),
        (_STAGE + r"_predict_layer\.weight", r"\1.heads.0.weight"),
        (_STAGE + r"_predict_layers\.(\d+)\.weight", r"\1.heads.\2.weight"),
    ]


def _norm_rules(original: str, ours: str, last: str) -> list[tuple[str, str]]:
    """Of a plain norm, and of one with a condition; `last` is the group that holds the tensor's name."""
    return [
        (original + r"(weight|bias)", f"{ours}.{last}"),
        (original + r"norm\.(weight|bias)", f"{ours}.norm.{last}"),
        (original + r"project_layer\.(weight|bias)", f"{ours}.projection.{last}"),
    ]


def _prenet_rules() -> list[tuple[str, str]]:
    text, audio = _STAGE + r"_text_prenet\.", _STAGE + r"_audio_prenet\."
    rules = [(audio + r"(\d)\.(weight|bias)", r"\1.audio_prenet.\2.\3")]
    # Transpose, then four parts a layer, transpose, projection.
    for layer in range(3):
        rules.append((text + rf"{1 + 4 * layer}\.(weight|bias)", rf"\1.text_prenet.convs.{layer}.\2"))
        rules.append((text + rf"{2 + 4 * layer}\.(.+)", rf"\1.text_prenet.norms.{layer}.\2"))
    return [*rules, (text + r"14\.(weight|bias)", r"\1.text_prenet.projection.\2")]


# The original's name of an argument, of its class or of its trainer -> ours.
_FIELDS = {
    "NUM_TEXT_TOKENS": "vocab_size",
    "NUM_AUDIO_TOKENS": "codebook_size",
    "num_quantizers": "num_codebooks",
    "d_model": "hidden_size",
    "decoder_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_decoder_layers": "num_hidden_layers",
    "nhead": "num_attention_heads",
    "nar_scale_factor": "nar_scale_factor",
    "scale_factor": "nar_scale_factor",
    "norm_first": "norm_first",
    "add_prenet": "add_prenet",
    "prefix_mode": "prefix_mode",
    "prepend_bos": "prepend_bos",
    "share_embedding": "tie_word_embeddings",
}
_VARIANTS = {"valle": "prefix", "vallf": "cross_attention"}


def config_from_original(original: dict) -> ValleConfig:
    """The arguments of the model's class, or those of the trainer (with everything else that it saves), to ours.

    Raises:
        ConversionError: another model of the project.
    """
    name = str(original.get("class", original.get("model_name", "VALL-E")))
    variant = name.lower().replace("-", "").replace("_", "")
    if variant not in _VARIANTS:
        raise ConversionError(f"the model is a {name!r}; this family reads VALL-E and VALL-F.")
    fields = {ours: original[theirs] for theirs, ours in _FIELDS.items() if theirs in original}
    # Where it says nothing, the original's prefix mode is 0. What it did stays what the converted model does.
    return ValleConfig(
        **{"prefix_mode": 0, **fields},
        text_condition=_VARIANTS[variant],
        original_loss=True,
        prenet_sees_padding=True,
        continual_swaps_prenet=True,
    )


def _read(path: Path) -> dict:
    # The trainer saves its output directory among its arguments, and torch's version, which is a kind of text.
    # Python 3.13 writes directories under another name.
    names = ("pathlib.PosixPath", "pathlib._local.PosixPath")
    paths = [(pathlib.PosixPath, name) for name in names]
    return read_checkpoint(path, allowed=[*paths, (TorchVersion, "torch.torch_version.TorchVersion")])


def _state(path: Path, content: dict) -> State:
    state = content.get("model", content)
    if not isinstance(state, dict):
        raise ConversionError(f"{path} has no state dict under 'model'; is it a checkpoint of lifeiteng/vall-e?")
    # Saved by DistributedDataParallel, all keys begin with `module.`.
    return {key.removeprefix("module."): value for key, value in state.items()}


def read(path: Path) -> State:
    """The state dict of a checkpoint, or of a file that holds nothing else."""
    return _state(path, _read(path))


def read_config(path: Path) -> dict | None:
    """The arguments beside it that make the model, and what are constants of the original's code."""
    content = _read(path)
    found = {name: value for name, value in content.items() if name in {*_FIELDS, "model_name"}}
    if "decoder_dim" not in found:
        return None
    state = _state(path, content)
    tables = [state.get(key) for key in ("ar_text_embedding.word_embeddings.weight", "ar_predict_layer.weight")]
    if not all(isinstance(table, Tensor) for table in tables):
        raise ConversionError(f"{path}: 'ar_text_embedding' or 'ar_predict_layer' is missing among its weights.")
    # The first codebook's head has one row more, which ends speech.
    return {**found, "NUM_TEXT_TOKENS": len(tables[0]), "NUM_AUDIO_TOKENS": len(tables[1]) - 1}


CONVERTER = Converter(
    ValleConfig, ValleForConditionalGeneration, rules, config_from_original, read=read, read_config=read_config
)

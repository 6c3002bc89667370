"""DAC's `weights_*.pth` files: a state dict, and beside it the arguments that the model was built with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..configuration.dac import DacCodecConfig
from ..modeling.dac import DacCodecModel
from .engine import ConversionError, Converter, Rules, State, read_checkpoint, translated

_WEIGHT_NORM = {
    r"\.weight_g": ".conv.parametrizations.weight.original0",
    r"\.weight_v": ".conv.parametrizations.weight.original1",
    r"\.bias": ".conv.bias",
}
_SNAKE = {r"\.alpha": ".alpha"}


def _modules(config: DacCodecConfig) -> Iterator[tuple[str, str, dict[str, str]]]:
    """The original's name of a module, ours, and the names of its tensors."""
    for side, layers, ratios in (
        ("encoder", r"encoder\.block", config.downsampling_ratios),
        ("decoder", r"decoder\.model", config.upsampling_ratios),
    ):
        count = len(ratios)
        yield rf"{layers}\.0", f"{side}.conv_in", _WEIGHT_NORM
        yield rf"{layers}\.{count + 1}", f"{side}.snake", _SNAKE
        yield rf"{layers}\.{count + 2}", f"{side}.conv_out", _WEIGHT_NORM
        snake, conv, first_unit = (3, 4, 0) if side == "encoder" else (0, 1, 2)
        for place in range(count):
            block, ours = rf"{layers}\.{place + 1}\.block", f"{side}.blocks.{place}"
            yield rf"{block}\.{snake}", f"{ours}.snake", _SNAKE
            yield rf"{block}\.{conv}", f"{ours}.conv", _WEIGHT_NORM
            for unit in range(3):
                parts, our_unit = rf"{block}\.{first_unit + unit}\.block", f"{ours}.units.{unit}"
                yield rf"{parts}\.0", f"{our_unit}.snake1", _SNAKE
                yield rf"{parts}\.1", f"{our_unit}.conv1", _WEIGHT_NORM
                yield rf"{parts}\.2", f"{our_unit}.snake2", _SNAKE
                yield rf"{parts}\.3", f"{our_unit}.conv2", _WEIGHT_NORM
    yield r"quantizer\.quantizers\.(\d+)\.(in_proj|out_proj)", r"quantizer.layers.\1.\2", _WEIGHT_NORM
    yield r"quantizer\.quantizers\.(\d+)\.codebook", r"quantizer.layers.\1.codebook", {r"\.weight": ".embed"}


def rules(config: DacCodecConfig) -> Rules:
    """The keys of every module, as many as there are blocks."""
    return [
        (pattern + tensor, target + ours)
        for pattern, target, tensors in _modules(config)
        for tensor, ours in tensors.items()
    ]


_FIELDS = {
    "encoder_dim": "encoder_hidden_size",
    "encoder_rates": "downsampling_ratios",
    "latent_dim": "hidden_size",
    "decoder_dim": "decoder_hidden_size",
    "decoder_rates": "upsampling_ratios",
    "n_codebooks": "n_codebooks",
    "codebook_size": "codebook_size",
    "codebook_dim": "codebook_dim",
    "quantizer_dropout": "quantizer_dropout",
    "sample_rate": "sampling_rate",
}
# What the original derives from the fields above, and writes beside them.
_DERIVED = ("hop_length", "delay")


def read(checkpoint: Path) -> State:
    """The state dict of a container."""
    return _container(checkpoint)["state_dict"]


def read_config(checkpoint: Path) -> dict:
    """The constructor's arguments that a container holds.

    `quantizer_dropout`, which only training reads, is not kept by the original and always stands there as `False`.
    """
    metadata = _container(checkpoint).get("metadata")
    kwargs = metadata.get("kwargs") if isinstance(metadata, dict) else None
    if not isinstance(kwargs, dict):
        raise ConversionError(f"{checkpoint} does not say how its model was built; give --preset or --config.")
    return kwargs


def _container(checkpoint: Path) -> dict:
    container = read_checkpoint(checkpoint)
    if not isinstance(container.get("state_dict"), dict):
        raise ConversionError(f"{checkpoint} has no `state_dict`; give a file of DAC's own, weights_*.pth.")
    return container


def config_from_original(original: dict) -> DacCodecConfig:
    """The constructor's arguments of the original `DAC` to our configuration.

    Raises:
        ConversionError: an argument that is unknown.
    """
    given = {name: value for name, value in original.items() if name not in _DERIVED}
    fields = translated(given, _FIELDS, {}, "DAC")
    if "quantizer_dropout" in fields:
        fields["quantizer_dropout"] = float(fields["quantizer_dropout"])
    return DacCodecConfig(**fields)


CONVERTER = Converter(DacCodecConfig, DacCodecModel, rules, config_from_original, read=read, read_config=read_config)

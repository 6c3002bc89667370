"""AudioCraft's files: a state dict under `best_state`, and beside it the training's configuration as YAML text."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from .engine import ConversionError, State


def is_container(file: dict) -> bool:
    """Whether a checkpoint is a file of AudioCraft's: weights in `best_state`, or a reference in `pretrained`."""
    return "best_state" in file or "pretrained" in file


def state_of(file: dict, path: Path) -> State:
    """The state dict.

    Raises:
        ConversionError: there is none.
    """
    if "pretrained" in file:
        raise ConversionError(f"{path} only names another checkpoint, {file['pretrained']!r}: convert that one.")
    if not isinstance(file.get("best_state"), dict):
        raise ConversionError(f"{path} has no state dict under 'best_state'; is it a file of AudioCraft?")
    return file["best_state"]


def config_of(file: dict, path: Path) -> dict:
    """The configuration.

    Raises:
        ConversionError: there is none, or it cannot be read.
    """
    try:
        config = yaml.safe_load(file.get("xp.cfg") or "")
    except yaml.YAMLError as error:
        raise ConversionError(f"{path}: its configuration is no valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ConversionError(f"{path} holds no configuration; give --config or --preset.")
    return config


def resolve(config: dict, value: object) -> object:
    """A value, or what it refers to (`${sample_rate}`, `${encodec.causal}`); in a part of the configuration, of each.

    Raises:
        ConversionError: it refers to what is not there.
    """
    if isinstance(value, dict):
        return {name: resolve(config, inner) for name, inner in value.items()}
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if reference is None:
        return value
    found: object = config
    for name in reference[1].split("."):
        if not isinstance(found, dict) or name not in found:
            raise ConversionError(f"the configuration refers to {value}, which it does not have.")
        found = found[name]
    return resolve(config, found)

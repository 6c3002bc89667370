"""What every training recipe is: a YAML file of sections, each field of which something reads."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedConfig, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from ..registry import FAMILIES, Family, family
from .trainer_base import BaseTrainer, BaseTrainingArguments

Arguments = TypeVar("Arguments", bound=BaseTrainingArguments)
SomeTrainer = TypeVar("SomeTrainer", bound=BaseTrainer)

_KINDS = {
    "a text": lambda value: isinstance(value, str),
    "a number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "a whole number, 0 or more": lambda value: type(value) is int and value >= 0,
    "true or false": lambda value: isinstance(value, bool),
}


class RecipeError(ValueError):
    """The recipe asks for something that does not exist; the message names it."""


def read_sections(path: str | os.PathLike, known: Sequence[str], needed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The sections of a recipe.

    Args:
        path: YAML file.
        known: names of sections that it may have.
        needed: those that it must have.

    Raises:
        RecipeError: the file is no YAML mapping, or a section is unknown, missing or no mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads 1e-4 as a number, as YAML 1.2 does; to YAML 1.1 it is a text, for want of a point."""

    exponent = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789"))
    path = Path(path)
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as a recipe: {error}") from error
    if not isinstance(recipe, dict):
        raise RecipeError(f"{path} must be a mapping with the sections {', '.join(known)}.")
    check_names("section", recipe, known)
    for name in needed:
        if name not in recipe:
            raise RecipeError(f"{path} lacks the section {name!r}.")
    for name, section in recipe.items():
        if not isinstance(section, dict):
            raise RecipeError(f"the section {name!r} must be a mapping of fields, got {section!r}.")
    return recipe


def check_names(kind: str, given: Collection[str], known: Collection[str]) -> None:
    """Refuse names that are not known.

    Raises:
        RecipeError: it names them, the known ones that they look like, and all that are known.
    """
    unknown = sorted(set(given) - set(known))
    if unknown:
        alike = [match for name in unknown for match in get_close_matches(name, known, n=1)]
        hint = f" (did you mean {', '.join(alike)}?)" if alike else ""
        raise RecipeError(f"unknown {kind} {', '.join(map(repr, unknown))}{hint}; known: {', '.join(sorted(known))}.")


def check_lists(section: dict[str, Any], *names: str, of: tuple[type, ...] = (str,)) -> None:
    """Refuse what is there and no list, or not `of` these types; a text would be taken for the list of its letters."""
    for name in names:
        value = section.get(name) or []
        if not isinstance(value, list):
            raise RecipeError(f"{name} must be a list, such as [{value}], got {value!r}.")
        wrong = [entry for entry in value if not isinstance(entry, of)]
        if wrong:
            kinds = "texts" if of == (str,) else "numbers"
            raise RecipeError(f"{name} must be a list of {kinds}, but has {wrong[0]!r}.")


def check_kind(kind: str, section: dict[str, Any], *names: str) -> None:
    """Refuse what is there and not of this kind, one of `_KINDS`."""
    for name in names:
        value = section.get(name)
        if value is not None and not _KINDS[kind](value):
            raise RecipeError(f"{name} must be {kind}, got {value!r}.")


def check_training(arguments_class: type[BaseTrainingArguments], given: dict[str, Any]) -> None:
    """Refuse fields that the training arguments do not have, or do not read, and other types than they have."""
    known = fields(arguments_class)
    check_names("training field", given, [entry.name for entry in known])
    if given.get("resume_from_checkpoint") is not None:
        raise RecipeError("resume_from_checkpoint is no matter of a recipe; go on from an earlier run by --resume.")
    check_kind("a number", given, *(entry.name for entry in known if type(entry.default) in (int, float)))
    check_kind("true or false", given, *(entry.name for entry in known if type(entry.default) is bool))


def family_of(section: dict[str, Any], kind: str) -> Family:
    """Take the family out of a section.

    Raises:
        RecipeError: there is no such family of this kind.
    """
    names = [row.name for row in FAMILIES if row.kind == kind]
    name = section.pop("family", None)
    if name not in names:
        raise RecipeError(f"family {name!r} is no {kind} of this package; choose one of {', '.join(names)}.")
    return family(name)


def config_of(row: Family, section: dict[str, Any], **defaults) -> PreTrainedConfig:
    """The configuration that the rest of a section asks for: fields, over a preset if it names one, over defaults."""
    config_class, section = row.load("config"), dict(section)
    preset = section.pop("preset", None)
    if preset is not None and preset not in list(config_class.presets):
        known = ", ".join(config_class.presets)
        raise RecipeError(f"{row.name} has no preset {preset!r}; choose one of {known}.")
    check_names(f"{row.kind} field", section, [entry.name for entry in fields(config_class)])
    return config_class(**{**defaults, **config_class.presets.get(preset, {}), **section})


def checkpoint_of(name: str | os.PathLike, root: Path) -> str:
    """Where a checkpoint is: a folder, below `root` if its path is relative, or whatever else the name stands for."""
    if not isinstance(name, (str, os.PathLike)):
        raise RecipeError(f"a checkpoint must be the name of a folder or a repository, got {name!r}.")
    folder = root / name
    return str(folder if folder.is_dir() else name)


def begin(
    arguments_class: type[Arguments], section: dict[str, Any], overrides: dict[str, Any], resume: bool | None = None
) -> Arguments:
    """The arguments of a recipe's training section, after which everything that is drawn follows from its seed.

    Args:
        arguments_class: of the trainer.
        section: of the recipe.
        overrides: fields that replace the section's.
        resume: whether training goes on from an earlier run; `None`: it is not known whether there is any training.

    Raises:
        RecipeError: an override that does not exist; an earlier run that is not to be resumed, or none that could be.
    """
    check_training(arguments_class, overrides)
    arguments = arguments_class(**{**section, **overrides})
    if resume is not None:
        _check_earlier_run(Path(arguments.output_dir), resume, arguments.max_steps)
    set_seed(arguments.seed)
    return arguments


def _check_earlier_run(folder: Path, resume: bool, max_steps: int) -> None:
    """Before data are read and models made, which may take hours."""
    earlier = get_last_checkpoint(folder) if folder.is_dir() else None
    if earlier is None and resume:
        raise RecipeError(f"{folder} holds no checkpoint to go on from; leave --resume out, or name its output_dir.")
    # A later resume would take the newest of both.
    if earlier is not None and not resume:
        raise RecipeError(
            f"{earlier} is of an earlier run; go on from it (--resume), or name another output_dir, or remove it."
        )
    if earlier is None:
        return
    # Which is written last.
    if not Path(earlier, TRAINER_STATE_NAME).is_file():
        raise RecipeError(
            f"{earlier} is not whole: the run ended while it was written. Remove it, to go on from the one before."
        )
    # transformers' Trainer would take one step more, each time.
    if 0 < max_steps <= TrainerState.load_from_json(Path(earlier, TRAINER_STATE_NAME)).global_step:
        raise RecipeError(f"{earlier} has all the steps that max_steps={max_steps} asks for; to go on, ask for more.")


def finish(trainer: SomeTrainer, resume: bool) -> SomeTrainer:
    """Train, from the newest checkpoint if asked to, and write what came out to `output_dir`."""
    trainer.train(resume_from_checkpoint=resume or None)
    trainer.save_model()
    trainer.save_state()
    return trainer

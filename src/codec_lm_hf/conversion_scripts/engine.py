"""From an original checkpoint to a directory that `from_pretrained` reads. A family adds a table of key rules."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, ProcessorMixin

from ..hub import build_model_card
from ..registry import Family, family_of
from ..registry import family as family_row

Rules = Iterable[tuple[str, str | None]]
State = dict[str, Tensor]


class ConversionError(ValueError):
    """The checkpoint cannot be converted; the message says what does not fit and what to do."""


@dataclass(frozen=True)
class Converter:
    """What a family's converter module defines, under the name `CONVERTER`.

    Attributes:
        config_class, model_class: ours.
        rules: pairs of a regular expression over a whole original key and the new key (with `\\1`, ...), or `None` for
            a key that is known and not needed. The first match counts. Or a function that makes them, where they
            depend on (our) configuration.
        config_from_original: the original project's own configuration, as a dict, to ours.
        read: checkpoint path to the flat original state; `read_checkpoint` by default.
        files: checkpoint path to the files it consists of (their SHA-256 is recorded); the path itself by default.
        prepare: original state and our configuration to the state that the rules read, where tensors must be changed,
            or the configuration says which are not needed.
        read_config: checkpoint path to the original configuration, for originals that keep it with the weights; `None`
            where it is not there.
        processor: checkpoint path and our configuration to the processor that goes with the model; for codecs, their
            feature extractor by default.
        native: our model and its processor to transformers' own model of it, and what is saved beside that.
    """

    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    rules: Rules | Callable[[PreTrainedConfig], Rules]
    config_from_original: Callable[[dict], PreTrainedConfig]
    read: Callable[[Path], State] | None = None
    files: Callable[[Path], list[Path]] | None = None
    prepare: Callable[[State, PreTrainedConfig], State] | None = None
    read_config: Callable[[Path], dict | None] | None = None
    processor: Callable[[Path, PreTrainedConfig], ProcessorMixin] | None = None
    native: Callable[[PreTrainedModel, Any], tuple[PreTrainedModel, list]] | None = None

    def rename(self, state: State, config: PreTrainedConfig) -> State:
        """The original state under our names; see `rename`."""
        rules = self.rules(config) if callable(self.rules) else self.rules
        return rename(state if self.prepare is None else self.prepare(state, config), rules)


def converter_of(row: Family) -> Converter:
    """The converter of a family.

    Raises:
        ConversionError: it has none.
    """
    if row.converter is None:
        raise ConversionError(f"{row.title} has no converter: {row.weights_license}.")
    return importlib.import_module(f"{__package__}.{row.converter}").CONVERTER


def read_checkpoint(path: Path, allowed: Sequence[tuple[type, str]] = ()) -> State:
    """Read a file of tensors (`torch.save` or safetensors) without executing anything in it.

    Args:
        path: of the file.
        allowed: harmless classes that may stand beside the tensors, and the names that they have in files.

    Raises:
        ConversionError: the file is missing, cut short, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise ConversionError(f"{path} is not a file; give the original checkpoint file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(list(allowed)):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} holds more than tensors and was not loaded, because its pickle could run code: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except Exception as error:
        # A damaged stream can make the restricted unpickler stumble in any way: all of them mean the same here.
        raise ConversionError(f"{path} cannot be read as a checkpoint; it may be cut short: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise ConversionError(f"{path} holds a {type(state).__name__}; expected a dict of tensors by name.")
    return state


def read_nested(path: Path) -> State:
    """`read_checkpoint` for dicts in dicts: their keys joined by `/`."""
    flat: dict = {}

    def collect(prefix: str, value: object) -> None:
        if not isinstance(value, dict):
            flat[prefix] = value
            return
        for key, inner in value.items():
            collect(f"{prefix}/{key}" if prefix else str(key), inner)

    collect("", read_checkpoint(path))
    return flat


def rename(state: State, rules: Rules) -> State:
    """Apply the key rules.

    Raises:
        ConversionError: a key that no rule knows, or two keys that become the same one.
    """
    compiled = [(re.compile(pattern), target) for pattern, target in rules]
    renamed: State = {}
    unknown = []
    for key, value in state.items():
        for pattern, target in compiled:
            match = pattern.fullmatch(key)
            if match is None:
                continue
            if target is not None:
                new = match.expand(target)
                if new in renamed:
                    raise ConversionError(f"{key} and another key both become {new}.")
                renamed[new] = value
            break
        else:
            unknown.append(key)
    if unknown:
        raise ConversionError(
            f"{len(unknown)} keys are unknown to this family, for example {unknown[:3]}; is it the right family?"
        )
    return renamed


def check_complete(expected: dict[str, torch.Size], found: dict[str, torch.Size]) -> None:
    """Refuse a state with a key missing, left over or of another shape.

    Raises:
        ConversionError: with examples of what does not fit.
    """
    missing = sorted(set(expected) - set(found))
    surplus = sorted(set(found) - set(expected))
    shapes = [k for k in expected if k in found and tuple(expected[k]) != tuple(found[k])]
    if not (missing or surplus or shapes):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing (for example {missing[:3]})")
    if surplus:
        parts.append(f"{len(surplus)} left over (for example {surplus[:3]})")
    if shapes:
        key = shapes[0]
        parts.append(f"{len(shapes)} of another shape ({key}: {tuple(found[key])}, expected {tuple(expected[key])})")
    raise ConversionError(
        f"the checkpoint does not fit the configuration: {'; '.join(parts)}. Give its --config or another --preset."
    )


def load_original(converter: Converter, checkpoint: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """Build our model from an original checkpoint, every key accounted for."""
    state = converter.rename((converter.read or read_checkpoint)(checkpoint), config)
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ConversionError(f"{checkpoint} holds a {type(value).__name__} at {key}; expected a tensor.")
    model = converter.model_class(config).eval()
    expected = model.state_dict()
    check_complete({k: v.shape for k, v in expected.items()}, {k: v.shape for k, v in state.items()})
    model.load_state_dict(state)
    return model


def resolve_config(
    converter: Converter, checkpoint: Path, config, preset: str | None
) -> tuple[PreTrainedConfig, dict]:
    """Our configuration and what it came from: a given one, a preset, what lies with the weights, or their name."""
    if config is not None and preset is not None:
        raise ConversionError("give a configuration or a preset, not both.")
    if config is None and preset is None and converter.read_config is not None:
        config = converter.read_config(checkpoint)
    if config is not None:
        original = config if isinstance(config, dict) else read_config_file(Path(config))
        try:
            return converter.config_from_original(original), {"config": original}
        except (StrictDataclassError, TypeError, AttributeError) as error:
            raise ConversionError(
                f"the configuration is none of this family's originals ({error}); give the original project's own."
            ) from error
    presets = converter.config_class.presets
    if preset is not None and preset not in presets:
        raise ConversionError(f"there is no preset {preset!r}; choose one of {', '.join(sorted(presets))}.")
    if preset is None:
        named = [name for name in presets if len(presets) == 1 or checkpoint.name.startswith(name)]
        preset = max(named, key=len, default=None)
    if preset is None:
        raise ConversionError(
            f"{checkpoint.name} holds weights only, and its name is no published variant's; give --preset (one of "
            f"{', '.join(sorted(presets))}) or --config."
        )
    return converter.config_class.from_preset(preset), {"preset": preset}


def check_fixed(given: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Refuse options of an original whose one supported value is another; those that are not given pass.

    Raises:
        ConversionError: names the option, its value and the supported one.
    """
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise ConversionError(f"{name}={given[name]!r} is not supported; every published model has {value!r}.")


def translated(
    given: Mapping[str, Any], fields: Mapping[str, str], fixed: Mapping[str, Any], family: str
) -> dict[str, Any]:
    """Options of an original under our names; each must be in `fields` or have the one value of `check_fixed`.

    Raises:
        ConversionError: an option is unknown, or has another value.
    """
    unknown = [name for name in given if name not in fields and name not in fixed]
    if unknown:
        raise ConversionError(
            f"{family}'s configuration has no field {unknown[0]!r}; known: {sorted({*fields, *fixed})}."
        )
    check_fixed(given, fixed)
    return {ours: given[theirs] for theirs, ours in fields.items() if theirs in given}


def read_config_file(path: Path) -> dict:
    """Fields of a JSON or YAML file.

    Raises:
        ConversionError: the file cannot be read as such.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} cannot be read as a configuration: {error}") from error
    try:
        config = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise ConversionError(f"{path} is not valid {path.suffix[1:].upper() or 'JSON'}: {error}") from error
    if not isinstance(config, dict):
        raise ConversionError(f"{path} holds a {type(config).__name__}; expected fields by name.")
    return config


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces of a megabyte."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _card(config: PreTrainedConfig, name: str, record: dict) -> ModelCard:
    files = "\n".join(f"- `{file}`, SHA-256 `{digest}`" for file, digest in record["source"].items())
    stated = record["weights_license"]
    # An identifier of the Hub has no spaces; anything longer explains why there is none.
    license = stated.lower() if " " not in stated else None
    note = f"Of the weights: {stated}."
    return build_model_card(config, name, license, note, source=f"Converted by `codec-lm convert` from\n\n{files}")


def convert(
    family: str,
    checkpoint: str | os.PathLike,
    output: str | os.PathLike,
    config: dict | str | os.PathLike | None = None,
    preset: str | None = None,
) -> Path:
    """Convert an original checkpoint into a directory for `from_pretrained`.

    The directory holds the configuration, safetensors weights, the feature extractor or processor (of a language model
    whose codec is given too, with the codec), a model card, and `conversion.json`: the source files' SHA-256, the
    original configuration, and the licence of the weights.

    Args:
        family: a family of `registry.FAMILIES`.
        checkpoint: the original file (or directory, where a family needs several files).
        output: directory to write; it must not exist yet, or be empty.
        config: the original project's own configuration, a dict or the path of a JSON or YAML file.
        preset: name of a published variant, where the original ships no configuration beside the weights.

    Returns:
        `output`.

    Raises:
        ConversionError: the checkpoint or the configuration does not fit, or would execute code.
        ValueError: unknown family.
    """
    row = family_row(family)
    converter = converter_of(row)
    checkpoint, output = Path(checkpoint), Path(output)
    if not checkpoint.exists():
        raise ConversionError(f"{checkpoint} does not exist; give the original checkpoint.")
    with _new_directory(output) as workspace:
        our_config, source = resolve_config(converter, checkpoint, config, preset)
        model = load_original(converter, checkpoint, our_config)
        # The rename of transformers' own conversion table must not turn keys back into an older layout.
        model.save_pretrained(workspace, save_original_format=False)
        if converter.processor is not None:
            converter.processor(checkpoint, our_config).save_pretrained(workspace)
        elif row.kind == "codec" and row.processor is not None:
            row.load("processor")(
                feature_size=our_config.audio_channels, sampling_rate=our_config.sampling_rate
            ).save_pretrained(workspace)
        files = converter.files(checkpoint) if converter.files else [checkpoint]
        folder = os.path.commonpath([file.parent for file in files])
        record = {
            "family": family,
            "source": {str(file.relative_to(folder)): sha256(file) for file in files},
            "original": source,
            "weights_license": row.weights_license,
        }
        (workspace / "conversion.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _card(our_config, output.name, record).save(workspace / "README.md")
    return output


def export_native(source: str | os.PathLike, output: str | os.PathLike) -> Path:
    """Write a model of ours in the layout of transformers' own class for it, which need not know this package.

    The directory also holds what goes with it there: the feature extractor or processor, of a language model its text
    encoder and its codec.

    Args:
        source: directory or repository id of the model, with its processor.
        output: directory to write; it must not exist yet, or be empty.

    Returns:
        `output`.

    Raises:
        ConversionError: transformers has no such model, or none of this configuration.
    """
    output, config = Path(output), AutoConfig.from_pretrained(source)
    row = family_of(config.model_type)
    converter = None if row is None or row.converter is None else converter_of(row)
    if converter is None or converter.native is None:
        raise ConversionError(f"{source} is a {config.model_type}, for which transformers has no class of its own.")
    with _new_directory(output) as workspace:
        native, parts = converter.native(*(row.load(role).from_pretrained(source) for role in ("model", "processor")))
        for part in (native, *parts):
            part.save_pretrained(workspace)
    return output


@contextmanager
def _new_directory(output: Path) -> Iterator[Path]:
    """A directory that appears at `output` once it is complete.

    Raises:
        ConversionError: something is there.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"{output} exists and is not an empty directory; choose another output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield workspace
        if output.exists():
            output.rmdir()
        workspace.chmod(0o755)
        workspace.rename(output)
    except BaseException:
        shutil.rmtree(workspace, ignore_errors=True)
        raise

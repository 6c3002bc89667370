"""A codec language model's training recipe: one YAML file that says what is trained, on what, and how it is judged."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoProcessor, GenerationConfig

from ..bitstream.codes import CodesHeader
from ..evaluation.generated import JUDGES
from ..modeling.auto import AutoCodecModel, family_at
from ..modeling.lm_base import CodecLMPreTrainedModel
from ..processing.codec_lm_processor import CodecLMProcessor
from .lm_data import (
    CodesDataset,
    Examples,
    StreamCodesDataset,
    has_column,
    read_headers,
    read_rows,
    read_texts,
    stream_rows,
)
from .lm_trainer import CodecLMTrainer, CodecLMTrainingArguments, Speaking
from .recipe_base import (
    RecipeError,
    begin,
    check_kind,
    check_lists,
    check_names,
    check_training,
    checkpoint_of,
    config_of,
    family_of,
    finish,
    read_sections,
)

_SECTIONS = ("model", "processor", "data", "training", "evaluation")
_MAPPINGS = ("inputs", "targets", "prompt")
_DATA = ("train", "eval", "streaming", *_MAPPINGS, "join", "speaker", "max_seconds", "prompt_seconds", "seed")
_EVALUATION = ("rows", "prompt", "text", "judges", "generation", "seed")
# What a processor is told by the recipe's other sections.
_SETTLED = ("self", "codec_name", "codec_revision", "num_codebooks", "codebook_size")


def read_recipe(path: str | os.PathLike, model_given: bool = False) -> dict[str, Any]:
    """Read and check a recipe.

    Args:
        path: YAML file.
        model_given: the model comes from elsewhere: the recipe needs no section for it.

    Raises:
        RecipeError: the file is no YAML mapping, or has a section or field that is unknown.
    """
    needed = [name for name in ("model", "data", "training") if not (name == "model" and model_given)]
    recipe = read_sections(path, _SECTIONS, needed)
    data, evaluation = recipe["data"], recipe.get("evaluation", {})
    check_names("data field", data, _DATA)
    check_names("evaluation field", evaluation, _EVALUATION)
    check_lists(data, "train", "eval")
    check_lists(evaluation, "judges")
    check_kind("a text", data, "speaker")
    check_kind("a text", evaluation, "text")
    check_kind("a number", data, "max_seconds")
    check_kind("a whole number, 0 or more", data, "join", "seed")
    check_kind("a whole number, 0 or more", evaluation, "rows", "seed")
    check_kind("true or false", data, "streaming")
    if not data.get("train"):
        raise RecipeError("the section 'data' needs train, a list of folders that codec-lm tokenize wrote.")
    if evaluation and not data.get("eval"):
        raise RecipeError("the section 'evaluation' needs eval in the section 'data', the folders with its rows.")
    for section, name in [*((data, name) for name in _MAPPINGS), (evaluation, "prompt"), (evaluation, "generation")]:
        if not isinstance(section.get(name, {}), dict):
            raise RecipeError(f"{name} must be a mapping, got {section[name]!r}.")
        if name != "generation":
            check_kind("a text", section.get(name, {}), *section.get(name, {}))
    check_names("judge", evaluation.get("judges", ()), JUDGES)
    check_training(CodecLMTrainingArguments, recipe["training"])
    return recipe


def build_model(
    section: dict[str, Any],
    processor_section: dict[str, Any],
    header: CodesHeader,
    texts: Iterable[str],
    root: Path = Path(),
) -> tuple[CodecLMPreTrainedModel, CodecLMProcessor]:
    """The language model of a recipe and its processor.

    Args:
        section: `from` a checkpoint, or a fresh one of a `family`, optionally a `preset`, and fields. With
            `start_from_codec`, see the model's method of this name.
        processor_section: `codec`, and what the family's processor takes beside.
        header: of the codes. A fresh model takes as many codebooks as they have, unless the section says otherwise.
        texts: of the corpus, for a fresh processor.
        root: folder that the paths of checkpoints are relative to.

    Raises:
        RecipeError: something is asked for that does not exist.
        ValueError: the codec is not that of the codes.
    """
    section, fields = dict(section), dict(processor_section)
    codec, start = fields.pop("codec", None), section.pop("from", None)
    start_from_codec = section.pop("start_from_codec", False)
    if codec is not None:
        codec = checkpoint_of(codec, root)
    if start_from_codec and start is not None:
        raise RecipeError(
            f"start_from_codec is for a fresh model: it would undo what {start} has learnt of its codes."
        )
    if start is None:
        row = family_of(section, "lm")
        if row.processor is None:
            raise RecipeError(f"the family {row.name!r} has no processor, which a recipe needs; train it in Python.")
        processor_class = row.load("processor")
        known = inspect.signature(processor_class.__init__).parameters
        check_names("processor field", fields, ["codec", *(name for name in known if name not in _SETTLED)])
        sizes = {"num_codebooks": header.num_codebooks, "codebook_size": header.codebook_size}
        processor = processor_class.for_corpus(config_of(row, section, **sizes), texts, **fields)
        model = row.load("model")(config_of(row, section, **sizes, **processor.model_fields))
        codec = codec or header.find_codec()
    else:
        start = checkpoint_of(start, root)
        if fields:
            raise RecipeError(
                f"the processor is that of {start}: the section 'processor' may name another copy of its codec, but "
                f"not {', '.join(map(repr, fields))}."
            )
        row = family_of(section, "lm") if "family" in section else family_at(start)
        model = (row.load("model") if row else AutoModel).from_pretrained(start, **section)
        if not isinstance(model, CodecLMPreTrainedModel):
            raise RecipeError(f"{start} is a {type(model).__name__} and no codec language model of this package.")
        processor = (row.load("processor") if row else AutoProcessor).from_pretrained(start)
    if codec is not None:
        _give_codec(processor, codec, header.revision if codec == header.codec else None)
    header.check_codec(processor.codec)
    if processor.num_codebooks > header.num_codebooks:
        raise RecipeError(
            f"the model takes {processor.num_codebooks} codebooks, the codes have {header.num_codebooks}; give the "
            "model num_codebooks, or tokenize at a higher bandwidth."
        )
    if start_from_codec:
        model.start_from_codec(processor.codec)
    return model, processor


def _give_codec(processor: CodecLMProcessor, name: str, revision: str | None) -> None:
    """A codec in a repository is known to a processor by name; one in a directory goes with it."""
    processor.codec = AutoCodecModel.from_pretrained(name, revision=revision)
    in_folder = Path(name).is_dir()
    processor.codec_name, processor.codec_revision = (None, None) if in_folder else (name, revision)


def build_examples(
    section: dict[str, Any], processor: CodecLMProcessor, header: CodesHeader, folders: list[Path]
) -> Examples:
    """What a recipe's section `data` makes of rows."""
    named = {name: section[name] for name in _MAPPINGS if name in section}
    for mapping in named.values():
        _check_arguments(processor, mapping)
    speaker = section.get("speaker") or ("speaker" if has_column(folders, "speaker") else None)

    def frames(seconds: float) -> int:
        return round(seconds * header.sampling_rate / header.hop_length)

    longest = frames(section["max_seconds"]) if "max_seconds" in section else None
    piece = None
    if "prompt_seconds" in section:
        bounds = section["prompt_seconds"]
        if not isinstance(bounds, list) or [type(bound) in (int, float) for bound in bounds] != [True, True]:
            raise RecipeError(f"prompt_seconds must be two numbers, from and to, got {bounds!r}.")
        piece = tuple(map(frames, bounds))
    return Examples(
        processor, **named, join=section.get("join", 1), speaker=speaker, longest=longest, prompt_frames=piece
    )


def _check_arguments(processor: CodecLMProcessor, names: Collection[str]) -> None:
    known = inspect.signature(type(processor).__call__).parameters
    check_names(f"argument of {type(processor).__name__}", names, [name for name in known if name != "self"])


def build_speaking(
    section: dict[str, Any], examples: Examples, model: CodecLMPreTrainedModel, folders: list[Path], seed: int
) -> Speaking:
    """What a recipe's section `evaluation` lets the model say.

    Args:
        section: `rows` (8 by default, evenly spaced), `prompt`, `text`, `judges`, `generation`, `seed`. Where the
            prompt is that of training, it is a piece of as many frames, too.
        examples: as in training.
        model: that speaks.
        folders: with the rows.
        seed: of the choice of prompts.

    Raises:
        RecipeError: something is asked for that does not exist.
        ValueError: a judge cannot judge by a text.
        ImportError: a judge is not installed.
    """
    prompt, options = section.get("prompt", {}), section.get("generation", {})
    _check_arguments(examples.processor, prompt)
    known = {*GenerationConfig().to_dict(), *inspect.signature(model.generate).parameters} - {"self", "kwargs", "seed"}
    check_names("generation field", options, known)
    text = section.get("text") or ("text" if has_column(folders, "text") else None)
    judges = {name: JUDGES[name]() for name in section.get("judges", ())}
    asked = dataclasses.replace(
        examples,
        targets={},
        prompt=prompt,
        join=1,
        prompt_frames=examples.prompt_frames if prompt == examples.prompt else None,
    )
    requests = CodesDataset(read_rows(folders, asked.columns | ({text} if text else set())), asked, seed)
    count = min(section.get("rows", 8), len(requests))
    if count < 1:
        raise RecipeError(f"evaluation.rows must be at least 1, got {count}; leave the section out to say nothing.")
    places = [number * len(requests) // count for number in range(count)]
    for judge in judges.values():
        for place in places:
            judge.check((requests.row(place)[text] or "") if text else "")
    return Speaking(requests, places, text, judges, options, section.get("seed", 0))


def build_trainer(
    path: str | os.PathLike,
    data_root: str | os.PathLike = ".",
    start_from: str | os.PathLike | None = None,
    resume: bool | None = None,
    **overrides,
) -> CodecLMTrainer:
    """The trainer of a recipe, before training; see `run_recipe`.

    With `resume`, `output_dir` must hold a checkpoint, and without (`False`) none; by default either will do.
    """
    recipe = read_recipe(path, model_given=start_from is not None)
    arguments = begin(CodecLMTrainingArguments, recipe["training"], overrides, resume)
    data = recipe["data"]
    train, held_out = ([Path(data_root, name) for name in data.get(part) or ()] for part in ("train", "eval"))
    folders, seed = [*train, *held_out], data.get("seed", 0)
    header = read_headers(folders)
    texts = read_texts(folders, data.get("inputs", {}).get("text", "text"))
    section, fields = recipe.get("model", {}), recipe.get("processor", {})
    if start_from is not None:
        # Which has its own processor.
        section, fields = {"from": start_from}, {name: fields[name] for name in ("codec",) if name in fields}
    model, processor = build_model(section, fields, header, texts, Path(data_root))
    examples = build_examples(data, processor, header, folders)
    if data.get("streaming"):
        dataset = StreamCodesDataset(stream_rows(train, examples.columns), examples, seed)
    else:
        dataset = CodesDataset(read_rows(train, examples.columns), examples, seed)
    known = CodesDataset(read_rows(held_out, examples.columns), examples, seed) if held_out else None
    speaking = None
    if "evaluation" in recipe:
        speaking = build_speaking(recipe["evaluation"], examples, model, held_out, seed)
    return CodecLMTrainer(model, arguments, processor, speaking=speaking, train_dataset=dataset, eval_dataset=known)


def run_recipe(
    path: str | os.PathLike,
    data_root: str | os.PathLike = ".",
    start_from: str | os.PathLike | None = None,
    resume: bool = False,
    **overrides,
) -> CodecLMTrainer:
    """Train as a recipe says; the model and its processor end up in its `output_dir`.

    Args:
        path: the recipe.
        data_root: folder that the recipe's folders of data and of checkpoints are relative to.
        start_from: checkpoint to fine-tune, instead of the recipe's model section.
        resume: go on from the newest checkpoint in `output_dir`.
        **overrides: fields of the training section.

    Returns:
        The trainer, after training.

    Raises:
        RecipeError: the recipe asks for something that does not exist.
    """
    return finish(build_trainer(path, data_root, start_from, resume, **overrides), resume)

"""A codec's training recipe: one YAML file that says what is trained, on what, and how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..modeling.auto import AutoCodecModel
from ..modeling.codec_base import CodecPreTrainedModel
from ..modeling.discriminators import CodecDiscriminator
from ..modeling.quantization import EuclideanCodebook
from ..processing.feature_extraction import CodecFeatureExtractor
from .data import Augmentation, ClipDataset, CropDataset, Noise, StreamCropDataset, find_recordings, recordings_of
from .distillation import SemanticTeacher
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
from .trainer import CodecTrainer, CodecTrainingArguments

_SECTIONS = ("model", "discriminator", "teacher", "data", "training")
_DATA = (
    "train",
    "hub",
    "eval",
    "column",
    "crop_seconds",
    "eval_seconds",
    "eval_limit",
    "repeat",
    "loudness_db",
    "noise",
    "seed",
)
_NOISE = ("folders", "snr_db", "denoise_share")


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
    check_names("data field", recipe["data"], _DATA)
    check_lists(recipe["data"], "train", "eval")
    check_lists(recipe["data"], "loudness_db", of=(int, float))
    check_kind("a text", recipe["data"], "column")
    check_kind("a number", recipe["data"], "crop_seconds", "eval_seconds")
    check_kind("a whole number, 0 or more", recipe["data"], "eval_limit", "repeat", "seed")
    if "crop_seconds" not in recipe["data"] or ("train" in recipe["data"]) == ("hub" in recipe["data"]):
        raise RecipeError("the section 'data' needs crop_seconds, and either train (a list of folders) or hub.")
    _check_noise(recipe["data"].get("noise"))
    _check_teacher(recipe.get("teacher"))
    check_training(CodecTrainingArguments, recipe["training"])
    return recipe


def _check_noise(section: dict[str, Any] | None) -> None:
    if section is None:
        return
    check_names("noise field", section, _NOISE)
    check_lists(section, "folders")
    check_lists(section, "snr_db", of=(int, float))
    if not section.get("folders"):
        raise RecipeError("data.noise needs folders, a list of folders with noises.")


def _check_teacher(section: dict[str, Any] | None) -> None:
    if section is None:
        return
    check_names("teacher field", section, ("from", "layer"))
    if "from" not in section:
        raise RecipeError("the section 'teacher' needs from, a speech model with its feature extractor.")


def build_model(section: dict[str, Any], root: Path = Path()) -> CodecPreTrainedModel:
    """The codec of a recipe: `from` a checkpoint, or a fresh one of a `family`, optionally a `preset`, and fields.

    A checkpoint is a folder, below `root` if its path is relative, or a repository. With `fresh_codebooks`, its
    codebooks are left out: they may have other sizes, and start anew.
    """
    section = dict(section)
    if "from" in section:
        source, fresh = checkpoint_of(section.pop("from"), root), section.pop("fresh_codebooks", False)
        model = AutoCodecModel.from_pretrained(source, ignore_mismatched_sizes=fresh, **section)
        for module in model.modules() if fresh else ():
            if isinstance(module, EuclideanCodebook):
                module.restart()
        return model
    row = family_of(section, "codec")
    return row.load("model")(config_of(row, section))


def build_discriminator(section: dict[str, Any] | None, root: Path = Path()) -> CodecDiscriminator | None:
    """The discriminator of a recipe, in the same manner; `None` where there is no such section."""
    if section is None:
        return None
    section = dict(section)
    row = family_of(section, "discriminator")
    if "from" in section:
        return row.load("model").from_pretrained(checkpoint_of(section.pop("from"), root), **section)
    return row.load("model")(config_of(row, section))


def build_teacher(section: dict[str, Any] | None, root: Path = Path()) -> SemanticTeacher | None:
    """The teacher of a recipe: `from` a checkpoint as in `build_model`, and the `layer` of `SemanticTeacher`."""
    if section is None:
        return None
    return SemanticTeacher.from_pretrained(checkpoint_of(section["from"], root), section.get("layer"))


def build_datasets(section: dict[str, Any], model: CodecPreTrainedModel, root: Path):
    """Training and evaluation sets of a recipe; relative folders are below `root`."""
    config = model.config
    rate, channels = config.sampling_rate, config.audio_channels
    crop = round(section["crop_seconds"] * rate)
    # A last incomplete frame would be coded from padding.
    crop -= crop % config.hop_length
    if crop < 1:
        raise RecipeError(
            f"crop_seconds={section['crop_seconds']} is less than a frame of the codec, {config.hop_length / rate} s."
        )
    augmentation = Augmentation(tuple(section["loudness_db"]) if section.get("loudness_db") else None)
    seed, noise = section.get("seed", 0), None
    if section.get("noise"):
        options = dict(section["noise"])
        noises = [path for folder in options.pop("folders") for path in find_recordings(root / folder)]
        noise = Noise(noises, rate, channels, **options)
    if "hub" in section and section["hub"].get("streaming"):
        train = StreamCropDataset(
            _hub(section), rate, channels, crop, augmentation, seed, section.get("column", "audio"), noise=noise
        )
    else:
        if "hub" in section:
            recordings = recordings_of(_hub(section), section.get("column", "audio"))
        else:
            recordings = [path for folder in section["train"] for path in find_recordings(root / folder)]
        train = CropDataset(recordings, rate, channels, crop, augmentation, seed, section.get("repeat", 1), noise)
    clips = None
    if section.get("eval"):
        paths = [path for folder in section["eval"] for path in find_recordings(root / folder)]
        longest = round(section.get("eval_seconds", 10.0) * rate)
        clips = ClipDataset(paths, rate, channels, longest, section.get("eval_limit"))
    return train, clips


def _hub(section: dict[str, Any]):
    import datasets

    dataset = datasets.load_dataset(**section["hub"])
    if isinstance(dataset, dict):
        raise RecipeError(f"data.hub needs a split; this data set has {', '.join(dataset)}.")
    return dataset


def build_trainer(
    path: str | os.PathLike,
    data_root: str | os.PathLike = ".",
    start_from: str | os.PathLike | None = None,
    resume: bool | None = None,
    **overrides,
) -> CodecTrainer:
    """The trainer of a recipe, before training; see `run_recipe`.

    With `resume`, `output_dir` must hold a checkpoint, and without (`False`) none; by default either will do.
    """
    recipe = read_recipe(path, model_given=start_from is not None)
    arguments = begin(CodecTrainingArguments, recipe["training"], overrides, resume)
    root = Path(data_root)
    model = build_model({"from": start_from} if start_from is not None else recipe["model"], root)
    discriminator = build_discriminator(recipe.get("discriminator"), root)
    teacher = build_teacher(recipe.get("teacher"), root)
    train, clips = build_datasets(recipe["data"], model, root)
    extractor = CodecFeatureExtractor(model.config.audio_channels, model.config.sampling_rate)
    return CodecTrainer(
        model, arguments, discriminator, teacher, train_dataset=train, eval_dataset=clips, processing_class=extractor
    )


def run_recipe(
    path: str | os.PathLike,
    data_root: str | os.PathLike = ".",
    start_from: str | os.PathLike | None = None,
    resume: bool = False,
    **overrides,
) -> CodecTrainer:
    """Train as a recipe says; the codec, its feature extractor and the discriminator end up in its `output_dir`.

    Args:
        path: the recipe.
        data_root: folder that the recipe's folders of data and of checkpoints are relative to.
        start_from: checkpoint to fine-tune, instead of the recipe's model section.
        resume: go on from the newest checkpoint in `output_dir`.
        **overrides: fields of the training section.

    Returns:
        The trainer, after training.

    Raises:
        RecipeError: see `read_recipe`.
    """
    return finish(build_trainer(path, data_root, start_from, resume, **overrides), resume)

"""A tiny data set of codes with texts and speakers, and a recipe that trains a tiny language model on it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import soundfile
import yaml

from codec_lm_hf.modeling.auto import AutoCodecModel
from codec_lm_hf.training.labelled import load_labelled
from codec_lm_hf.training.lm_recipe import build_trainer
from codec_lm_hf.training.recipe_base import finish
from codec_lm_hf.training.tokenize import tokenize
from tests.common.tiny import TINY
from tests.training.helpers import changed

TEXTS = ["one", "two", "one two", "two one", "one one", "two two", "one two one", "two one two", "one one two", "two"]
SPEAKERS = "aabbaabbaa"

RECIPE = {
    "model": {
        "family": "valle",
        "num_codebooks": 3,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "initializer_range": 0.1,
    },
    "data": {"train": ["codes"], "eval": ["codes"]},
    "training": {
        "output_dir": "to be replaced",
        "max_steps": 2,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 1,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    },
    "evaluation": {
        "rows": 2,
        "prompt": {"prompt_text": "text", "prompt_codes": "codes"},
        "generation": {"max_new_tokens": 5},
    },
}


def make_codes(root: Path) -> Path:
    """`root/codes`: ten rows of 10 to 19 frames, two speakers, the last without a text; and `root/codec`."""
    (root / "audio").mkdir(parents=True)
    rows = []
    for number, (text, speaker) in enumerate(zip(TEXTS, SPEAKERS, strict=True)):
        noise = 0.2 * np.random.default_rng(number).standard_normal(320 * (10 + number))
        soundfile.write(root / "audio" / f"{number}.wav", noise, 16000)
        rows.append({"file_name": f"{number}.wav", "text": text, "speaker": speaker, "beats": [number, 1]})
    rows[-1]["text"] = None
    (root / "audio" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    TINY["stft_codec"].model().save_pretrained(root / "codec")
    codec = AutoCodecModel.from_pretrained(root / "codec").eval()
    tokenize(codec, load_labelled(root / "audio"), root / "codes")
    return root


def write_recipe(path: Path, **changes) -> Path:
    """A file of the recipe with changes, see `changed`."""
    # Whole at once: in a distributed run another process may be reading the same file.
    own = path.with_suffix(f".{os.getpid()}")
    own.write_text(yaml.safe_dump(changed(RECIPE, **changes)))
    return own.replace(path)


def trainer(root: Path, output: Path, start_from=None, resume: bool | None = None, **changes):
    """The trainer of the recipe with changes."""
    path = write_recipe(output.parent / f"{output.name}.yaml", **changes)
    return build_trainer(path, root, start_from, resume, output_dir=str(output))


def train(root: Path, output: Path, start_from=None, resume: bool = False, **changes):
    """The trainer of the recipe with changes, after training."""
    return finish(trainer(root, output, start_from, resume, **changes), resume)

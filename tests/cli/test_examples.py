"""The example that every command's --help shows runs as it is printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from typer.testing import CliRunner

from codec_lm_hf.cli import app
from codec_lm_hf.demo.roundtrip import SPEECH
from tests.common.tiny import TINY

PROJECT = Path(__file__).parents[2]
COMMANDS = [command.name for command in app.registered_commands]


def codec_lm(*arguments: str):
    """Run a command in the current folder, on a terminal of 80 columns: a wrapped example would not run."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80"})


def examples(command: str) -> list[list[str]]:
    """Arguments of the examples that a command's help shows."""
    lines = re.findall(r"^\s*Example: codec-lm (.+?)\s*$", codec_lm(command, "--help").output, re.M)
    assert lines, f"codec-lm {command} --help shows no example"
    return [shlex.split(line) for line in lines]


def prepare_recording(folder: Path) -> None:
    audio, rate = soundfile.read(SPEECH)
    soundfile.write(folder / "speech.wav", audio[: 2 * rate], rate)


def prepare_recordings(folder: Path) -> None:
    (folder / "recordings").mkdir()
    prepare_recording(folder / "recordings")


def prepare_codes(folder: Path) -> None:
    prepare_recording(folder)
    codec_lm("encode", str(folder / "speech.wav"))


def prepare_data_set_of_codes(folder: Path) -> None:
    prepare_recordings(folder)
    (folder / "recordings" / "speech.txt").write_text("one two")
    codec_lm("tokenize", str(folder / "recordings"), "-o", str(folder / "codes"))


def prepare_checkpoint(folder: Path) -> None:
    """Every tensor of the published file, by name and shape, with zeros in it."""
    layout = json.loads((PROJECT / "tests" / "parity" / "layouts" / "encodec" / "encodec_24khz.json").read_text())
    state = {key: torch.zeros(shape) for key, (*shape, _) in layout["tensors"].items()}
    torch.save(state, folder / "encodec_24khz.th")


def prepare_recipe(folder: Path) -> None:
    """The recipe with two steps of a small model, and a little data where it looks for it."""
    recipe = yaml.safe_load((PROJECT / "recipes" / "stft_codec_16khz.yaml").read_text())
    recipe["model"] |= {"hidden_size": 16, "encoder_layers": 1, "decoder_layers": 1, "codebook_size": 16}
    recipe["model"] |= {"kmeans_iterations": 1}
    for part in recipe["discriminator"]["parts"]:
        part["filters"] = 2
    recipe["data"] |= {"eval_limit": 1, "eval_seconds": 0.5}
    recipe["training"] |= {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 0, "bf16": False}
    recipe["training"] |= {"lr_scheduler_kwargs": {"num_decay_steps": 1}}
    (folder / "recipes").mkdir()
    (folder / "recipes" / "stft_codec_16khz.yaml").write_text(yaml.safe_dump(recipe))
    audio, rate = soundfile.read(SPEECH)
    for data in {*recipe["data"]["train"], *recipe["data"]["eval"]}:
        place = folder / "DATA" / data
        place.mkdir(parents=True)
        for number in range(2):
            soundfile.write(place / f"{number}.wav", audio[: 2 * rate], rate)


def prepare_lm_recipe(folder: Path) -> None:
    """The recipe with two steps of a small model, letters and no judges, and a little data where it looks for it."""
    recipe = yaml.safe_load((PROJECT / "recipes" / "valle_phrases.yaml").read_text())
    recipe["model"] |= {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "nar_scale_factor": 1}
    recipe["processor"]["frontend"] = "graphemes"
    recipe["evaluation"] |= {"rows": 1, "judges": []}
    recipe["evaluation"]["generation"] |= {"max_new_tokens": 5}
    recipe["training"] |= {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 0, "eval_steps": 1}
    recipe["training"] |= {"save_steps": 1, "metric_for_best_model": "loss", "logging_steps": 1}
    recipe["training"] |= {"lr_scheduler_kwargs": {"num_decay_steps": 1}, "bf16": False}
    (folder / "recipes").mkdir()
    (folder / "recipes" / "valle_phrases.yaml").write_text(yaml.safe_dump(recipe))
    prepare_recordings(folder)
    audio, rate = soundfile.read(folder / "recordings" / "speech.wav")
    soundfile.write(folder / "recordings" / "more.wav", audio[: rate // 2], rate)
    for name in ("speech", "more"):
        (folder / "recordings" / f"{name}.txt").write_text(name)
    for data in {*recipe["data"]["train"], *recipe["data"]["eval"]}:
        codes = str(folder / "codes" / data)
        codec_lm("tokenize", str(folder / "recordings"), "-o", codes)
        codec_lm("align", codes, "-o", str(folder / "DATA" / data))


def prepare_voice(folder: Path) -> None:
    prepare_recording(folder)
    (folder / "speech.wav").rename(folder / "me.wav")


def prepare_codec(folder: Path) -> None:
    case = TINY["encodec"]
    for part in (case.model(target_bandwidths=(1.8,)), case.feature_extractor()):
        part.save_pretrained(folder / "my-codec")


PREPARE = {
    "generate": prepare_voice,
    "encode": prepare_recording,
    "decode": prepare_codes,
    "convert": prepare_checkpoint,
    "export-native": prepare_codec,
    "tokenize": prepare_recordings,
    "align": prepare_data_set_of_codes,
    "train-codec": prepare_recipe,
    "train-lm": prepare_lm_recipe,
}
LEAVES = {
    "generate": ["out.wav"],
    "encode": ["speech.codes"],
    "decode": ["back.wav"],
    "convert": ["my-codec/config.json", "my-codec/model.safetensors", "my-codec/conversion.json"],
    "export-native": ["native/config.json", "native/model.safetensors", "native/preprocessor_config.json"],
    "export-onnx": ["onnx/encoder.onnx", "onnx/decoder.onnx", "onnx/codec.json"],
    "roundtrip": ["out/reconstructed.wav", "out/roundtrip.png"],
    "tokenize": ["codes/dataset_info.json"],
    "align": ["aligned/dataset_info.json", "aligned/codes-000000.parquet"],
    "train-codec": ["runs/stft_codec_16khz/model.safetensors"],
    "train-lm": ["runs/valle_phrases/model.safetensors", "runs/valle_phrases/samples/step-2/table.jsonl"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_the_help_runs_as_printed(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    PREPARE.get(command, lambda folder: None)(tmp_path)
    for arguments in examples(command):
        done = codec_lm(*arguments)
        assert done.exit_code == 0, (done.output, done.exception)
    for file in LEAVES.get(command, []):
        assert (tmp_path / file).stat().st_size > 0


def test_the_program_itself_lists_its_commands():
    text = codec_lm("--help").output
    assert all(command in text for command in COMMANDS)
    bare = codec_lm()
    assert bare.exit_code == 2 and bare.output == text

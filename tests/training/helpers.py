"""Recordings, a tiny codec, a tiny discriminator and a tiny teacher to train in a second."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import HubertConfig, HubertModel, WhisperConfig, WhisperModel

from codec_lm_hf.configuration.discriminators import CodecDiscriminatorConfig, stft_parts
from codec_lm_hf.modeling.discriminators import CodecDiscriminator
from codec_lm_hf.training.data import ClipDataset, CropDataset, find_recordings
from codec_lm_hf.training.trainer import CodecTrainer, CodecTrainingArguments
from tests.common.tiny import TINY

PROJECT = Path(__file__).parents[2]
RATE = 16000
CROP = 3200


def changed(recipe: dict, **changes) -> dict:
    """A recipe with `section__field=value` changed; `None` takes a field or a section away."""
    recipe = copy.deepcopy(recipe)
    for place, value in changes.items():
        section, _, field = place.partition("__")
        target, key = (recipe[section], field) if field else (recipe, section)
        if value is None:
            del target[key]
        else:
            target[key] = value
    return recipe


def launch(module: str, folder: Path) -> None:
    """Run `python -m module folder` in two processes on one CPU (gloo), as a user starts them."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, "-m", module, str(folder)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def write_recordings(folder: Path, count: int = 10, seconds: float = 0.4, rate: int = RATE) -> Path:
    """Harmonic tones of different pitch and loudness over a little noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    for number in range(count):
        pitch = 100 + 20 * number
        tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8))
        audio = 0.05 * (1 + number % 3) * tone + 0.003 * rng.standard_normal(len(time))
        soundfile.write(folder / f"{number}.wav", audio, rate)
    return folder


def write_noise(folder: Path) -> Path:
    """A second of white noise."""
    folder.mkdir()
    soundfile.write(folder / "white.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    return folder


def crops(folder: Path, seed: int = 0) -> CropDataset:
    return CropDataset(find_recordings(folder), RATE, 1, CROP, seed=seed)


def clips(folder: Path, limit: int = 2) -> ClipDataset:
    return ClipDataset(find_recordings(folder), RATE, 1, RATE, limit)


def codec(seed: int = 0, **fields):
    torch.manual_seed(seed)
    return TINY["stft_codec"].model_class(TINY["stft_codec"].config(**fields))


def discriminator(seed: int = 0, audio_channels: int = 1) -> CodecDiscriminator:
    torch.manual_seed(seed)
    parts = stft_parts((256, 128), filters=4, dilations=(1, 2))
    return CodecDiscriminator(CodecDiscriminatorConfig(parts=parts, audio_channels=audio_channels))


def hubert(hidden_size: int = 12) -> HubertModel:
    """HuBERT base's strides, so 50 frames a second, with few channels."""
    torch.manual_seed(0)
    return HubertModel(
        HubertConfig(
            hidden_size=hidden_size,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=[8] * 7,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    )


def whisper(hidden_size: int = 12) -> WhisperModel:
    """Whisper's strides and half a minute of positions, with few channels."""
    torch.manual_seed(0)
    layers = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    feedforward = {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    return WhisperModel(WhisperConfig(vocab_size=8, d_model=hidden_size, **layers, **feedforward, **special))


def arguments(output_dir: Path, **fields) -> CodecTrainingArguments:
    defaults = {
        "use_cpu": True,
        "per_device_train_batch_size": 5,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "sample_count": 0,
    }
    return CodecTrainingArguments(output_dir=str(output_dir), **{**defaults, **fields})


def trainer(output_dir: Path, recordings: Path, adversarial: bool = False, seed: int = 0, **fields) -> CodecTrainer:
    return CodecTrainer(
        codec(seed),
        arguments(output_dir, **fields),
        discriminator(seed) if adversarial else None,
        train_dataset=crops(recordings),
        eval_dataset=clips(recordings),
    )

"""Turns finished training runs into the bundled speaking model: half-precision weights, card, recipes, log, voice.

python tools/bundle_tts.py runs/valle_phrases runs/valle_phrases_more_voices runs/valle_phrases_real_voices \\
    --voice DATA/phrases_tts_24k/validation/am_michael_00576.ogg --metrics speaking_quality.json
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import transformers
import typer
import yaml
from bundling import PRETRAINED, PROJECT, save_half, save_history, save_metrics

from codec_lm_hf.hub import build_model_card
from codec_lm_hf.processing.codec_lm_processor import CodecLMProcessor

TARGET = PRETRAINED / "tts"
COLUMNS = ("loss", "eval_loss", "eval_code_accuracy_0", "eval_code_accuracy_1", "eval_speaker_similarity", "eval_wer")


def processor_of(run: Path) -> CodecLMProcessor:
    """The run's processor, with the bundled codec by its name."""
    processor = transformers.AutoProcessor.from_pretrained(run)
    processor.codec_name, processor.codec_revision = "bundled:codec", None
    return processor


def main(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of the runs in turn, named as their recipes.")],
    voice: Annotated[Path, typer.Option(help="Recording that is the prompt where nobody gives one.")],
    metrics: Annotated[
        Path | None, typer.Option(help="What benchmarks/speaking_quality.py wrote about the bundled model.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="That it speaks with, if not with that of the last recipe's evaluation.")
    ] = None,
    notes: Annotated[Path | None, typer.Option(help="Markdown on training and quality, for the card.")] = None,
) -> None:
    """Write src/codec_lm_hf/pretrained/tts; without metrics and notes, what benchmarks/speaking_quality.py needs."""
    TARGET.mkdir(parents=True, exist_ok=True)
    run = runs[-1]
    model = transformers.AutoModelForTextToWaveform.from_pretrained(run)
    # It samples as it was listened to in training.
    recipe = yaml.safe_load((PROJECT / f"recipes/{run.name}.yaml").read_text())
    model.generation_config.update(**recipe["evaluation"]["generation"])
    if guidance_scale is not None:
        model.generation_config.guidance_scale = guidance_scale
    save_half(model, TARGET)
    processor_of(run).save_pretrained(TARGET)
    save_history(runs, COLUMNS, TARGET)
    shutil.copyfile(voice, TARGET / "voice.ogg")
    if metrics is not None:
        save_metrics(metrics, ("speech", "digits"), TARGET)
    source = None if notes is None else notes.read_text(encoding="utf-8").strip()
    build_model_card(model.config, "codec-lm-hf/bundled-tts-16khz", "apache-2.0", source=source).save(
        TARGET / "README.md"
    )


if __name__ == "__main__":
    typer.run(main)

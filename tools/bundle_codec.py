"""Turns finished training runs into the bundled codec: half-precision weights, card, recipes, log and metrics.

python tools/bundle_codec.py runs/bundled_codec runs/bundled_codec_few_codebooks --metrics codec_quality.json \\
    --notes notes.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from bundling import PRETRAINED, save_half, save_history, save_metrics

import codec_lm_hf
from codec_lm_hf.hub import build_model_card

TARGET = PRETRAINED / "codec"
COLUMNS = ("mel_loss", "eval_mel_loss", "eval_log_mel_distance", "eval_pesq_wb", "eval_stoi")


def main(
    runs: Annotated[
        list[Path], typer.Argument(help="Output folders of the runs, in order, each named as its recipe is.")
    ],
    metrics: Annotated[Path, typer.Option(help="What benchmarks/codec_quality.py wrote about the bundled codec.")],
    notes: Annotated[Path, typer.Option(help="Markdown on training and quality, for the card.")],
) -> None:
    """Write src/codec_lm_hf/pretrained/codec."""
    TARGET.mkdir(parents=True, exist_ok=True)
    model = codec_lm_hf.AutoCodecModel.from_pretrained(runs[-1])
    # Training drew among some numbers of codebooks; the codec has every one.
    config = model.config
    config.target_bandwidths = [config.bandwidth_of(count + 1) for count in range(config.num_codebooks)]
    save_half(model, TARGET)
    codec_lm_hf.CodecFeatureExtractor.from_pretrained(runs[-1]).save_pretrained(TARGET)
    save_history(runs, COLUMNS, TARGET)
    save_metrics(metrics, ("quality", "speech"), TARGET)
    card = build_model_card(
        config, "codec-lm-hf/bundled-codec-16khz", "apache-2.0", source=notes.read_text(encoding="utf-8").strip()
    )
    card.save(TARGET / "README.md")


if __name__ == "__main__":
    typer.run(main)

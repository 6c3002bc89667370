"""Judges codecs on held-out speech, beside Opus, in one run.

What it needs beyond the package:

    pip install 'codec-lm-hf[metrics,judge]'
    pip install --no-deps resemblyzer==0.1.4   # its own webrtcvad does not import; the extra has one that does
    apt install opus-tools                     # the anchor; left out, and said so, where it is missing

Words are recognised by Moonshine tiny-en with half a second of silence on both sides. Word errors are counted after
lower-casing, spelling numerals out and removing punctuation except the apostrophe; of the possible readings of a
numeral the one with the fewest errors counts (evaluation/judges.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import surroundings
from tqdm.auto import tqdm

from codec_lm_hf.cli.common import load_codec, output_file
from codec_lm_hf.evaluation.benchmark import (
    QUALITY_COLUMNS,
    SPEECH_COLUMNS,
    Coder,
    ModelCoder,
    OpusCoder,
    SpeechJudge,
    judge_all,
    markdown_table,
    measure_quality,
    read_recordings,
)
from codec_lm_hf.evaluation.judges import Recogniser, SpeakerEncoder, Visqol

BUNDLED = "bundled"
CODECS = [f"{BUNDLED}:8,4,2,1"]
OPUS = [6.0]


def model_coders(codec: str) -> list[ModelCoder]:
    """`DIRECTORY:8,4,2,1`, or `DIRECTORY` alone for the rates that the codec was made for."""
    source, separator, numbers = codec.rpartition(":")
    if not separator or not numbers.replace(",", "").isdigit():
        source, numbers = codec, ""
    model = load_codec(None if source == BUNDLED else source)
    name = source if source == BUNDLED else Path(source).name
    if numbers:
        counts = [int(number) for number in numbers.split(",") if number]
    else:
        counts = sorted({model.config.num_quantizers_for(rate) for rate in model.config.bandwidths}, reverse=True)
    return [ModelCoder(model, count, name) for count in counts]


def extremes(coders: list[ModelCoder]) -> list[ModelCoder]:
    """The highest and the lowest rate of one codec."""
    ordered = sorted(coders, key=lambda coder: -coder.num_quantizers)
    return ordered[:1] + ordered[1:][-1:]


def anchors(rates: list[float], left_out: list[str]) -> list[OpusCoder]:
    try:
        return [OpusCoder(rate) for rate in rates]
    except FileNotFoundError as error:
        left_out.append(f"Opus: {error}")
        return []


def quality(coders: list[Coder], folder: Path, limit: int | None, left_out: list[str]) -> list[dict]:
    try:
        metrics = {"visqol": Visqol()}
    except ImportError as error:
        left_out.append(f"ViSQOL: {error}")
        metrics = {}
    recordings = read_recordings(folder, limit)
    return [
        measure_quality(coder, tqdm(recordings, desc=coder.name, unit="clip", leave=False), metrics)
        for coder in coders
    ]


def speech(coders: list[Coder], folder: Path, limit: int | None) -> list[dict]:
    judge = SpeechJudge(read_recordings(folder, limit), Recogniser(), SpeakerEncoder())
    return judge_all(judge, [None, *coders])


def measure(
    recordings: Path, codecs: list[str], opus: list[float], speech_folder: Path | None, limit: int | None
) -> dict:
    """The whole report."""
    left_out: list[str] = []
    models = [model_coders(name) for name in codecs]
    opus_coders = anchors([rate for rate in opus if rate > 0], left_out)
    everything = [coder for coders in models for coder in coders] + opus_coders
    chosen = [coder for coders in models for coder in extremes(coders)] + opus_coders
    return {
        **surroundings(),
        "recordings": str(recordings),
        "limit": limit,
        "quality": quality(everything, recordings, limit, left_out),
        "speech": [] if speech_folder is None else speech(chosen, speech_folder, limit),
        "left_out": left_out,
    }


def main(
    recordings: Annotated[
        Path, typer.Argument(help="Folder of held-out recordings, e.g. the test split of english_speech_16k.")
    ],
    codec: Annotated[
        list[str],
        typer.Option(
            help="Directory or repository id, or 'bundled'; then, after a colon, numbers of quantizers "
            "(else the rates that the codec was made for). May be given several times."
        ),
    ] = CODECS,
    opus: Annotated[
        list[float], typer.Option(help="Rate of Opus in kbps; several times for several, 0 for none.")
    ] = OPUS,
    speech_folder: Annotated[
        Path | None,
        typer.Option(
            "--speech",
            help="Folder of recordings with text and speaker in metadata.jsonl, e.g. the validation split of "
            "phrases_tts_24k: also judge whether words and voices survive, at each codec's highest and lowest rate.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use this many recordings of each folder, evenly spaced.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of the codecs.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")] = Path("codec_quality.json"),
) -> None:
    """Judge codecs on held-out speech: quality, rate and speed, and whether words and voices survive.

    Example: python benchmarks/codec_quality.py src/codec_lm_hf/demo
    """
    torch.set_num_threads(threads)
    # Opened first: a path that cannot be written must not cost the whole run.
    with output_file(output) as file:
        report = measure(recordings, codec, opus, speech_folder, limit)
        report["threads"] = threads
        file.write(json.dumps(report, indent=1, ensure_ascii=False).encode())
    typer.echo(f"\n{markdown_table(report['quality'], QUALITY_COLUMNS)}\n")
    if report["speech"]:
        typer.echo(f"{markdown_table(report['speech'], SPEECH_COLUMNS)}\n")
    for reason in report["left_out"]:
        typer.echo(f"left out: {reason}")
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)

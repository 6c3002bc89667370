"""Judges what a model says by the texts of recordings it was not trained on, beside those recordings and its codec.

What it needs beyond the package is what codec_quality.py needs for words and voices. A model with the frontend gruut
also needs the extra of this name.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from measuring import surroundings

import codec_lm_hf
from codec_lm_hf.cli.common import output_file
from codec_lm_hf.evaluation.benchmark import (
    SPEECH_COLUMNS,
    ModelCoder,
    Recording,
    Speaker,
    SpeechJudge,
    digit_strings,
    judge_all,
    markdown_table,
    read_recordings,
)
from codec_lm_hf.evaluation.judges import Recogniser, SpeakerEncoder

COLUMNS = {
    "name": ("speech", "{}"),
    "wer": SPEECH_COLUMNS["wer"],
    # Prices, times and digit strings are full of words that the recogniser may write in more than one way.
    "wer_by_sound": ("WER by sound", "{:.1%}"),
    **{name: column for name, column in SPEECH_COLUMNS.items() if name not in ("name", "wer")},
    "length": ("length / original", "{:.2f}"),
    "longest": ("longest", "{:.2f}"),
    "speed": ("x real time", "{:.1f}"),
}


def pace(speaker: Speaker, clips: list[Recording]) -> dict:
    """How long it spoke beside the recordings, and beside the time that it took."""
    said = [speaker.spoken[clip.name] for clip in clips]
    lengths = [one.seconds / (len(clip.audio) / clip.sampling_rate) for one, clip in zip(said, clips, strict=True)]
    return {
        "length": sum(lengths) / len(lengths),
        "longest": max(lengths),
        "speed": sum(one.seconds for one in said) / sum(one.took for one in said),
    }


def measure(
    recordings: Path, name: str, limit: int | None, prompt_seconds: float, seed: int, int8: bool, digits: int
) -> dict:
    """The whole report."""
    path = codec_lm_hf.bundled("tts") if name == "bundled" else name
    processor = transformers.AutoProcessor.from_pretrained(path)
    model = transformers.AutoModelForTextToWaveform.from_pretrained(path).eval()
    clips = read_recordings(recordings, limit)
    judges = Recogniser(), SpeakerEncoder()
    judge = SpeechJudge(clips, *judges)
    codec = processor.codec
    counts = sorted({codec.config.num_codebooks, processor.num_codebooks, 1}, reverse=True)
    models = {name: model, **({f"{name}, int8": copy.deepcopy(model).to_int8()} if int8 else {})}
    # Any other recording can be a prompt, also one that is not judged.
    prompts = read_recordings(recordings)
    speakers = [Speaker(one, processor, prompts, prompt_seconds, called, seed=seed) for called, one in models.items()]
    for speaker in speakers:
        speaker(clips[0])  # the first call is slow
    rows = judge_all(judge, [None, *(ModelCoder(codec, count, "its codec") for count in counts), *speakers])
    for row, speaker in zip(rows[-len(speakers) :], speakers, strict=True):
        row |= pace(speaker, clips)
    strings = digit_strings(prompts, digits)
    sayers = [Speaker(one, processor, strings, prompt_seconds, called, seed=seed) for called, one in models.items()]
    return {
        **surroundings(),
        "recordings": str(recordings),
        "limit": limit,
        "prompt_seconds": prompt_seconds,
        "seed": seed,
        "speech": rows,
        "digits": judge_all(SpeechJudge(strings, *judges), sayers) if digits else [],
    }


def main(
    recordings: Annotated[
        Path,
        typer.Argument(
            help="Folder of recordings with text and speaker in metadata.jsonl, e.g. the validation split of "
            "phrases_tts_24k."
        ),
    ],
    model: Annotated[str, typer.Option(help="Directory or repository id of a model that speaks.")] = "bundled",
    prompt_seconds: Annotated[
        float, typer.Option(help="Of another recording of the speaker, which is the prompt; nothing tells its text.")
    ] = 3.0,
    limit: Annotated[int | None, typer.Option(help="Use this many recordings, evenly spaced.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first recording.")] = 0,
    int8: Annotated[bool, typer.Option("--int8", help="Also with its weights in eight bits.")] = False,
    digits: Annotated[
        int, typer.Option(help="Say this many random strings of digits, too, in the voices of the recordings.")
    ] = 0,
    threads: Annotated[int, typer.Option(help="Threads of the models.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")] = Path(
        "speaking_quality.json"
    ),
) -> None:
    """Judge the words and voices of what a model says, and how long it takes.

    Example: python benchmarks/speaking_quality.py DATA/phrases_tts_24k/validation
    """
    torch.set_num_threads(threads)
    with output_file(output) as file:
        report = measure(recordings, model, limit, prompt_seconds, seed, int8, digits)
        report["threads"] = threads
        file.write(json.dumps(report, indent=1, ensure_ascii=False).encode())
    typer.echo(f"\n{markdown_table(report['speech'], COLUMNS)}\n")
    kinds = list(report["speech"][0]["kinds"])
    for title, rates in (("WER by kind of text", "kinds"), ("WER by sound", "kinds_by_sound")) if kinds else ():
        columns = {"name": (title, "{}"), **{kind: (kind, "{:.1%}") for kind in kinds}}
        typer.echo(f"{markdown_table([{**row, **row[rates]} for row in report['speech']], columns)}\n")
    if digits:
        words = sum(row["words"] for row in report["digits"][0]["recordings"])
        columns = {**COLUMNS, "name": (f"{digits} strings of digits, {words} words", "{}")}
        typer.echo(f"{markdown_table(report['digits'], columns)}\n")
    typer.echo(f"written to {output}")


if __name__ == "__main__":
    typer.run(main)

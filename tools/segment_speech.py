"""Cuts recordings at pauses into phrases, and writes down what a recogniser hears in each: texts for a speaking model.

    python tools/segment_speech.py DATA/english_speech_16k/train -o DATA/english_phrases_16k/train

Needs the extra `judge`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import librosa
import numpy as np
import soundfile
import typer
from tqdm import tqdm

from codec_lm_hf.evaluation.benchmark import read_recordings
from codec_lm_hf.evaluation.judges import Recogniser, normalise_text

# Below the loudest: what is not speech.
_PAUSE_DB = 35
_MARGIN_SECONDS = 0.08


def phrases(audio: np.ndarray, rate: int, shortest: float, longest: float) -> list[np.ndarray]:
    """Pieces of `(samples,)` between pauses, joined up to `longest` seconds, without those below `shortest`."""
    spans: list[list[int]] = []
    for start, end in librosa.effects.split(audio, top_db=_PAUSE_DB, frame_length=rate // 20, hop_length=rate // 100):
        if spans and end - spans[-1][0] <= longest * rate:
            spans[-1][1] = end
        else:
            spans.append([start, end])
    margin = round(_MARGIN_SECONDS * rate)
    kept = [(start, end) for start, end in spans if shortest * rate <= end - start <= longest * rate]
    return [audio[max(0, start - margin) : end + margin] for start, end in kept]


def main(
    recordings: Annotated[Path, typer.Argument(help="Folder of recordings with speakers in metadata.jsonl.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    shortest: Annotated[float, typer.Option(help="Seconds of a phrase at least.")] = 1.0,
    longest: Annotated[float, typer.Option(help="Seconds of a phrase at most.")] = 5.0,
) -> None:
    """Write FLAC files and metadata.jsonl with file_name, text, speaker and duration."""
    output.mkdir(parents=True)
    recognise, rows = Recogniser(), []
    for recording in tqdm(read_recordings(recordings), unit="recording"):
        rate = recording.sampling_rate
        for place, piece in enumerate(phrases(recording.audio, rate, shortest, longest)):
            text = recognise(piece, rate).strip()
            if not normalise_text(text):
                continue
            name = f"{Path(recording.name).with_suffix('').as_posix().replace('/', '-')}_{place:02}.flac"
            soundfile.write(output / name, piece, rate)
            row = {"file_name": name, "text": text, "speaker": recording.speaker, "duration": len(piece) / rate}
            rows.append(json.dumps(row, ensure_ascii=False))
    (output / "metadata.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    typer.echo(f"{len(rows)} phrases in {output}")


if __name__ == "__main__":
    typer.run(main)

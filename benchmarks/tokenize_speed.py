"""`codec-lm tokenize` beside a loop that takes one file at a time: the same codec, files and rounds, in one run.

python benchmarks/tokenize_speed.py DATA/phrases_tts_24k/validation

The loop reads a file, encodes it and saves its codes (`numpy.save`). The codes are compared before anything is timed.
Wall time is what a user waits; processor time shows how much of it is work, where the machine has other users.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import torch
import typer

from codec_lm_hf.cli.common import load_codec
from codec_lm_hf.evaluation.benchmark import markdown_table
from codec_lm_hf.training.data import decode
from codec_lm_hf.training.labelled import LabelledRecordings, load_labelled
from codec_lm_hf.training.tokenize import SHARDS, processes, tokenize

COLUMNS = {
    "name": ("", "{}"),
    "wall": ("audio s per s", "{:.1f}"),
    "processor": ("audio s per processor s", "{:.1f}"),
    "gain": ("speed-up", "{:.2f}"),
}


def one_at_a_time(model, recordings: LabelledRecordings, folder: Path) -> None:
    config = model.config
    for place in range(len(recordings.ids)):
        ((name, source),) = recordings.audio([place])
        audio = torch.from_numpy(decode(source, config.sampling_rate, config.audio_channels, name))[None]
        codes = model.encode(audio.to(model.device)).audio_codes[0]
        np.save(folder / f"{place}.npy", codes.cpu().numpy().astype(np.int16))


def codes_of(folder: Path, recordings: LabelledRecordings) -> list[np.ndarray]:
    """What either way left behind, in the order of the recordings."""
    saved = [folder / f"{place}.npy" for place in range(len(recordings.ids))]
    if saved[0].is_file():
        return [np.load(path) for path in saved]
    rows = [row for path in sorted(folder.glob(SHARDS)) for row in pq.read_table(path).to_pylist()]
    return [np.array(row["codes"], np.int16) for row in rows]


def timed(run: Callable[[Path], object]) -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        started, worked = time.perf_counter(), time.process_time()
        run(Path(folder))
        return time.perf_counter() - started, time.process_time() - worked


def main(
    source: Annotated[str, typer.Argument(help="Folder of audio, or a data set.")],
    codec: Annotated[
        str | None, typer.Option(help="Directory or repository id; the bundled codec by default.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of a data set with several.")] = None,
    rounds: Annotated[int, typer.Option(help="The ways take turns; the median counts.")] = 5,
    batch_seconds: Annotated[float, typer.Option(help="As of codec-lm tokenize.")] = 60.0,
) -> None:
    """Print what each way codes in a second."""
    model = load_codec(codec).to(processes().device)
    recordings = load_labelled(source, split)
    ways = {
        "one file at a time": lambda folder: one_at_a_time(model, recordings, folder),
        "tokenize, tiles": lambda folder: tokenize(
            model, recordings, folder, None, batch_seconds, whole_batches=False
        ),
        "tokenize, whole batches": lambda folder: tokenize(
            model, recordings, folder, None, batch_seconds, whole_batches=True
        ),
    }
    results, seconds = {}, 0.0
    for name, run in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            report = run(Path(folder))
            seconds = report.seconds if report else seconds
            results[name] = codes_of(Path(folder), recordings)
    for name, codes in results.items():
        same = [
            np.array_equal(ours, theirs) for ours, theirs in zip(codes, results["one file at a time"], strict=True)
        ]
        typer.echo(f"{name}: {sum(same)} of {len(same)} recordings have the codes of the loop")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            times[name].append(timed(run))
    rows = []
    for name, measured in times.items():
        wall, processor = (statistics.median(column) for column in zip(*measured, strict=True))
        rows.append({"name": name, "wall": seconds / wall, "processor": seconds / processor})
        rows[-1]["gain"] = rows[-1]["wall"] / rows[0]["wall"]
    typer.echo(
        f"\n{type(model).__name__}, {len(recordings.ids)} recordings, {seconds:.0f} s of audio, {rounds} rounds, "
        f"{model.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.machine()}\n"
    )
    typer.echo(markdown_table(rows, COLUMNS))


if __name__ == "__main__":
    typer.run(main)

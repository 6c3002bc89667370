"""Our codec language models beside what a user would otherwise run: speed, memory and the roofline, in one run.

VALL-E of the paper's size beside an uncached loop over the same weights (what the original does at every step) and
PyPI's `vall-e-x`; MusicGen of the small size beside transformers' own. Weights are random, and the same in all
implementations of a model; codes are chosen greedily and compared. For `vall-e-x`, without its dependencies (peers.py
says why):

    pip install --no-deps vall-e-x==0.0.2a1

All implementations take turns step by step. See benchmarks/README.md for the columns.
"""

from __future__ import annotations

import json
import os
import statistics
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from lm_peers import OURS, OURS_FLOAT16, Case, musicgen, valle, variants
from measuring import Bandwidth, Turn, in_a_process, peak_memory, surroundings, take_turns, thread_clock
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModelForTextToWaveform, AutoProcessor, BatchFeature
from transformers.utils import logging

from codec_lm_hf.evaluation.benchmark import markdown_table, read_recordings
from codec_lm_hf.modeling.layers.linear import Float16Linear
from codec_lm_hf.processing.codec_lm_processor import CodecLMProcessor

_ROUNDS_PER_BANDWIDTH = 4

SPEED_COLUMNS = {
    "model": ("model", "{}"),
    "batch": ("batch", "{}"),
    "work": ("", "{}"),
    "codes_per_second": ("codes/s", "{:.1f}"),
    "step_ms": ("ms a step", "{:.1f}"),
    "real_time": ("x real time", "{:.3f}"),
    "first_audio": ("first audio, s", "{:.2f}"),
    "roofline": ("of roofline", "{:.2f}"),
    "step_speedup": ("step of ours is faster by", "{:.2f}"),
    "speedup": ("all of it by", "{:.2f}"),
    "float16_step_speedup": ("step of float16 weights is faster by", "{:.2f}"),
    "float16_speedup": ("all of it by", "{:.2f}"),
    "same_codes": ("same codes", "{:.1%}"),
    "weights_mib": ("weights, MiB", "{:.0f}"),
    "peak_mib": ("peak above, MiB", "{:.0f}"),
}


QUALITY_COLUMNS = {
    "work": ("", "{}"),
    "recordings": ("recordings", "{}"),
    "loss": ("loss", "{:.4f}"),
    "change": ("change", "{:+.4f}"),
    "same_codes": ("same most likely codes", "{:.1%}"),
}


def case_of(model: str, seconds: float, batch: int, quick: bool, every: int, only: tuple[str, ...] | None) -> Case:
    if model == "musicgen":
        return musicgen(seconds, batch, quick, only)
    return valle(seconds, batch, quick, every, only)


def step_times(turn: Turn, every: int) -> np.ndarray:
    """Seconds of each step; those that a sampled work did not take are between those that it took."""
    times = np.array(turn.times)
    if every == 1:
        return times
    steps = np.arange(len(times) - 1)  # its last turn finds that there is nothing left
    return np.interp(steps, steps[::every], times[:-1][::every])


def same_codes(found: Tensor, ours: Tensor, sampled: bool) -> float:
    """Share of the codes; of those that were compared, where only some were."""
    if sampled:
        return found.float().mean().item()
    return (found == ours).float().mean().item() if found.shape == ours.shape else 0.0


@torch.no_grad()
def measure(
    model: str, seconds: float, batch: int, threads: int, quick: bool, every: int, only: tuple[str, ...] | None
) -> tuple[list[dict], dict]:
    """A row for each implementation, and why others are left out."""
    case = case_of(model, seconds, batch, quick, every, only)
    bandwidth = Bandwidth(thread_clock(threads))
    bar = tqdm(desc=f"{model}, batch {batch}", unit="step")

    def between(index: int) -> None:
        bar.update()
        if index % _ROUNDS_PER_BANDWIDTH == 0:
            bandwidth()

    turns = take_turns(case.works, threads, between, last=case.sampled)
    bar.close()
    rows = []
    times = {name: step_times(turn, case.sampled.get(name, 1)) for name, turn in turns.items()}
    nar = times[OURS][-1] if case.first_steps is None else 0.0
    for name, turn in turns.items():
        found = times[name]
        total = found.sum() + (nar if name in case.sampled else 0.0)
        weights_bytes, width = size_of(case.models[name])
        first = total if case.first_steps is None else found[: case.first_steps].sum()
        # The first step reads the text and the prompt; the last entry is what comes after the last step. Others are
        # compared with what stands in the same round, or just before it: the step of ours, and the bandwidth.
        steps = found[1 : case.frames - 1]
        speeds = np.repeat(bandwidth.found, _ROUNDS_PER_BANDWIDTH)[1 : case.frames - 1]
        reading = case.step_weights * width / speeds
        rows.append(
            {
                "model": model,
                "batch": batch,
                "work": name,
                "seconds": case.frames / case.frame_rate,
                "threads": threads,
                "load_average": os.getloadavg()[0],
                "codes_per_second": batch * case.frames * case.codebooks / total,
                "step_ms": float(np.median(steps)) * 1e3,
                "real_time": batch * case.frames / case.frame_rate / total,
                "first_audio": first,
                "bandwidth": statistics.median(bandwidth.found),
                "roofline": float(np.median(reading / steps)),
                "same_codes": same_codes(turn.result, turns[OURS].result, name in case.sampled),
                "weights_mib": weights_bytes / 2**20,
                "sampled": case.sampled.get(name, 1),
                "step_seconds": [round(float(value), 6) for value in found],
            }
        )
        for prefix, reference in (("", OURS), ("float16_", OURS_FLOAT16)):
            if reference in times:
                theirs = times[reference]
                rows[-1][f"{prefix}step_speedup"] = float(np.median(steps / theirs[1 : case.frames - 1]))
                rows[-1][f"{prefix}speedup"] = total / theirs.sum()
    return rows, case.left_out


def size_of(model: nn.Module) -> tuple[int, int]:
    """Bytes of the weights of a model, and of each of those that a step reads: norms and embeddings may be wider."""
    packed = [part.nbytes for part in model.modules() if isinstance(part, Float16Linear)]
    weights = model.state_dict().values()
    width = 2 if packed else min(part.element_size() for part in weights)
    return sum(packed) + sum(part.nbytes for part in weights), width


def _memory_of(model: str, work: str, seconds: float, batch: int, threads: int, quick: bool, send) -> None:
    torch.set_num_threads(threads)
    case = case_of(model, seconds, batch, quick, 1, (work,))
    for weights in case.models[work].state_dict().values():
        weights.float().sum()  # what is mapped from a file is read now, and belongs to the model
    with peak_memory() as peak:
        case.works[work](lambda: None)
    send(peak())


def memory(*case) -> float | None:
    """Peak above the loaded model in MiB, in a process of its own; `None` if that failed."""
    return next(iter(in_a_process(_memory_of, *case)), None)


def examples(processor: CodecLMProcessor, recordings: Path, limit: int) -> list[BatchFeature]:
    """Texts with what says them: recordings, or codes and durations as `codec-lm align` writes them."""
    from codec_lm_hf.training.tokenize import INFO, read_codes  # of the extra `train`, which speed does not need

    if (recordings / INFO).is_file():
        rows = read_codes(recordings, ["text", "codes", "durations"])
        count = min(limit, len(rows))
        return [
            processor(
                row["text"],
                target_codes=torch.tensor(row["codes"])[: processor.num_codebooks],
                durations=row["durations"],
            )
            for row in rows.select([place * len(rows) // count for place in range(count)])
        ]
    return [
        processor(one.text, target_audio=one.audio, sampling_rate=one.sampling_rate)
        for one in read_recordings(recordings, limit)
    ]


@torch.no_grad()
def quality(checkpoint: str, recordings: Path, limit: int) -> list[dict]:
    """What fewer bits cost a trained model: its loss on recordings with texts, and the codes that it finds likely."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForTextToWaveform.from_pretrained(checkpoint).eval()
    given = examples(processor, recordings, limit)
    rows: list[dict] = []
    likely: dict[str, Tensor] = {}
    for name, variant in variants(model, None).items():
        outputs = [variant(**example) for example in tqdm(given, desc=name, unit="recording")]
        likely[name] = torch.cat([output.logits.argmax(-1).flatten() for output in outputs])
        loss = statistics.mean(output.loss.item() for output in outputs)
        rows.append(
            {
                "work": name,
                "recordings": len(given),
                "loss": loss,
                "change": loss - (rows[0]["loss"] if rows else loss),
                "same_codes": same_codes(likely[name], likely[OURS], sampled=False),
            }
        )
    return rows


def main(
    model: Annotated[list[str], typer.Option(help="musicgen or valle; several times for several.")] = (
        "musicgen",
        "valle",
    ),
    batch: Annotated[list[int], typer.Option(help="Rows at a time; several times for several.")] = (1, 8),
    seconds: Annotated[float, typer.Option(help="Of audio.")] = 10,
    work: Annotated[
        list[str], typer.Option(help="Only these implementations beside ours; several times for several.")
    ] = (),
    threads: Annotated[int, typer.Option(help="Of torch. For one, times are those of the CPU.")] = 1,
    every: Annotated[int, typer.Option(help="The uncached loop takes every so many steps, and is interpolated.")] = 25,
    memory_seconds: Annotated[float, typer.Option(help="Of audio, to measure memory at (Linux); 0: not at all.")] = 10,
    quick: Annotated[bool, typer.Option(help="Tiny models, to see that it runs.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="A trained model with its processor, to see what fewer bits cost it.")
    ] = None,
    recordings: Annotated[
        Path,
        typer.Option(
            help="For --checkpoint: a folder with texts (metadata.jsonl), or, for models with monotonic alignment, "
            "what codec-lm align wrote."
        ),
    ] = Path(),
    limit: Annotated[int, typer.Option(help="So many of the recordings.")] = 40,
    output: Annotated[Path, typer.Option(help="JSON file for the figures.")] = Path("out/lm_speed.json"),
) -> None:
    """Time our language models beside others of the same weights, step by step in turn."""
    unknown = sorted(set(model) - {"musicgen", "valle"})
    if unknown:
        raise typer.BadParameter(f"no model {unknown[0]!r}; choose musicgen or valle.")
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    report = {
        **surroundings(),
        "left_out": {},
        "speed": [],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in model:
        for rows_at_a_time in batch:
            rows, left_out = measure(
                name, seconds, rows_at_a_time, threads, quick, every, (OURS, *work) if work else None
            )
            report["speed"] += rows
            report["left_out"] |= {f"{absent}, batch {rows_at_a_time}": why for absent, why in left_out.items()}
            output.write_text(json.dumps(report, indent=2) + "\n")
            for row in tqdm(rows if memory_seconds else [], desc="memory", unit="work"):
                # An uncached step has the same peak whether others were taken before it or not.
                if row["sampled"] == 1:
                    row["memory_seconds"] = memory_seconds
                    row["peak_mib"] = memory(name, row["work"], memory_seconds, rows_at_a_time, threads, quick)
            output.write_text(json.dumps(report, indent=2) + "\n")
            typer.echo(markdown_table(rows, SPEED_COLUMNS) + "\n")
    if checkpoint is not None:
        report["quality"] = quality(checkpoint, recordings, limit)
        output.write_text(json.dumps(report, indent=2) + "\n")
        typer.echo(markdown_table(report["quality"], QUALITY_COLUMNS) + "\n")
    for name, why in report["left_out"].items():
        typer.echo(f"left out: {name}: {why}")
    bandwidth = statistics.median(row["bandwidth"] for row in report["speed"])
    typer.echo(f"read bandwidth: {bandwidth / 1e9:.1f} GB/s\nWrote {output}.")


if __name__ == "__main__":
    typer.run(main)

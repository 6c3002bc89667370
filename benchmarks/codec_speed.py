"""Our codecs beside what a user would otherwise run: speed and memory, in one run.

What it needs beyond the package (`make benchmark` installs it):

    pip install 'codec-lm-hf[benchmark]'
    pip install --no-deps encodec==0.1.1 speechtokenizer==1.0.1 descript-audio-codec==1.0.0 funcodec==0.2.0

Without their dependencies, because those ask for a torchaudio that need not fit the torch that is here; what these
packages import for files and training only is stood in for (peers.py). One that is not there is left out, and said so.

All implementations of a model have its published architecture and the same random weights; their codes are compared
before anything is timed. See benchmarks/README.md for the columns.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from measuring import in_a_process, peak_memory, status, surroundings
from peers import CASES, OURS, Codec, build
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from codec_lm_hf.cli.encode import use_segments

# Sums in another order may decide a near tie between two entries of a codebook differently.
LARGEST_SHARE_OF_OTHER_CODES = 0.02
LARGEST_AUDIO_ERROR = 1e-3
_GEMM_SIZE = 1024
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 30
_STREAMED_SECONDS = 2


def _baddbmm_flops(total: tuple, a: tuple, b: tuple, *rest, **options) -> int:
    """From the shapes of the arguments."""
    return 2 * a[0] * a[1] * a[2] * b[2]


def operations(run: Callable[[], object]) -> int:
    """Multiplications and additions of matrix products and convolutions while `run` runs."""
    # oneDNN's LSTM is one operation, which is not counted; without it, it is matrix products.
    unknown = {torch.ops.aten.baddbmm_: _baddbmm_flops}  # it knows the one that is not in place
    counter = FlopCounterMode(display=False, custom_mapping=unknown)
    with torch.backends.mkldnn.flags(enabled=False), counter:
        run()
    return counter.get_total_flops()


def sgemm() -> float:
    """Operations per second of one float32 matrix product."""
    a, b = torch.randn(2, _GEMM_SIZE, _GEMM_SIZE)
    start = time.perf_counter()
    torch.mm(a, b)
    return 2 * _GEMM_SIZE**3 / (time.perf_counter() - start)


def compare(codes: dict[str, Tensor], audio: dict[str, Tensor]) -> float:
    """Share of the first codebook's codes in which some implementation is not of one mind with ours.

    Args:
        codes: of the same audio.
        audio: of the same codes.

    Raises:
        RuntimeError: so much that the models do not compute the same thing.
    """
    other = torch.stack([value[:, 0] != codes["ours"][:, 0] for value in codes.values()]).any(0).float().mean().item()
    if other > LARGEST_SHARE_OF_OTHER_CODES:
        raise RuntimeError(f"{other:.2%} of the first codes differ: the models do not compute the same thing.")
    expected = audio["ours"].flatten()
    for name, value in audio.items():
        error = ((value.flatten() - expected).abs().max() / expected.abs().max()).item()
        if error > LARGEST_AUDIO_ERROR:
            raise RuntimeError(f"audio of {name} differs by {error:.2g} of the peak from ours.")
    return other


def _interleaved(work: Callable[[Codec], object], codecs: dict[str, Codec], budget: float) -> tuple[dict, float]:
    """Times of `work` with every codec in turn, round by round for about `budget` seconds, and the best sgemm."""
    times: dict[str, list[float]] = {name: [] for name in codecs}
    peak, began = max(sgemm() for _ in range(3)), time.perf_counter()
    for index in range(_MOST_ROUNDS):
        if index >= _FEWEST_ROUNDS and time.perf_counter() - began > budget:
            break
        for name, codec in codecs.items():
            start = time.perf_counter()
            work(codec)
            times[name].append(time.perf_counter() - start)
        peak = max(peak, *(sgemm() for _ in range(3)))
    return times, peak


@torch.no_grad()
def measure(
    name: str, codecs: dict[str, Codec], threads: int, seconds: float, batch: int, budget: float
) -> list[dict]:
    """Encode and decode with every codec in turn."""
    torch.set_num_threads(threads)
    audio = torch.randn(batch, 1, int(seconds * CASES[name].config.sampling_rate)) * 0.1
    codes = {name: codec.encode(audio) for name, codec in codecs.items()}  # also warms up
    given = codes["ours"]
    other_codes = compare(codes, {name: codec.decode(given) for name, codec in codecs.items()})
    rows = []
    for direction in ("encode", "decode"):

        def work(codec: Codec, direction: str = direction) -> object:
            return codec.encode(audio) if direction == "encode" else codec.decode(given)

        # Of the plain model: what oneDNN has packed is not counted.
        flops = operations(lambda: work(codecs["ours"]))  # noqa: B023
        times, peak = _interleaved(work, codecs, budget)
        audio_seconds = seconds * batch
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = {name: min(values) for name, values in times.items()}
        peers = [name for name in codecs if name not in OURS]

        def gains(of: dict, peers: list = peers) -> dict:
            return {name: min(of[peer] for peer in peers) / of[name] for name in OURS if peers}

        rows.append(
            {
                "model": name,
                "preset": CASES[name].preset,
                "direction": direction,
                "threads": threads,
                "seconds": seconds,
                "batch": batch,
                "rounds": len(times["ours"]),
                "load_average": os.getloadavg()[0],
                "gflop_per_audio_second": flops / audio_seconds / 1e9,
                "sgemm_gflops": peak / 1e9,
                "other_codes": other_codes,
                "ms_per_audio_second": {name: value / audio_seconds * 1e3 for name, value in medians.items()},
                "best_ms_per_audio_second": {name: value / audio_seconds * 1e3 for name, value in best.items()},
                "share_of_peak": {name: flops / value / peak for name, value in best.items()},
                "speedup": gains(medians),  # over the faster peer
                "best_speedup": gains(best),
            }
        )
    return rows


@torch.no_grad()
def measure_streams(name: str, codecs: dict[str, Codec], threads: int, chunk_ms: float, budget: float) -> list[dict]:
    """Encode and decode with ours, chunk by chunk; nothing that runs the others' models can."""
    torch.set_num_threads(threads)
    ours = {key: codecs[key] for key in OURS}
    config, rows = CASES[name].config, []
    frames = max(1, round(chunk_ms / 1e3 * config.frame_rate))
    audio = torch.randn(1, 1, int(_STREAMED_SECONDS * config.sampling_rate)) * 0.1
    codes = ours["ours"].encode(audio)
    for direction in ("encode", "decode"):

        def work(codec: Codec, direction: str = direction) -> None:
            state = codec.model.init_stream(1)
            if direction == "encode":
                for chunk in audio.split(frames * config.hop_length, dim=-1):
                    codec.model.encode_chunk(chunk, state, num_quantizers=codes.shape[1])
            else:
                for chunk in codes.split(frames, dim=-1):
                    codec.model.decode_chunk(chunk, state)

        times, _ = _interleaved(work, ours, budget)
        rows.append(
            {
                "model": name,
                "preset": CASES[name].preset,
                "direction": direction,
                "threads": threads,
                "frames": frames,
                "chunk_ms": frames / config.frame_rate * 1e3,
                "load_average": os.getloadavg()[0],
                "times_real_time": {key: _STREAMED_SECONDS / statistics.median(value) for key, value in times.items()},
            }
        )
    return rows


@torch.no_grad()
def _memory_of(case: str, name: str, seconds: float, limit_mib: float, send) -> None:
    torch.set_num_threads(1)
    codec = build(case, (name,))[0][name]
    if name in OURS:
        use_segments(codec.model, None)
    rate = CASES[case].config.sampling_rate
    codec.decode(codec.encode(torch.randn(1, 1, rate // 10) * 0.1))
    audio = torch.randn(1, 1, int(seconds * rate)) * 0.1
    limit = int((status("VmSize") + limit_mib) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    value: Tensor | None = audio
    for work in (codec.encode, codec.decode):
        with peak_memory() as peak:
            start = time.perf_counter()
            try:
                value = work(value)
            except (RuntimeError, MemoryError):  # torch has no class of its own for this on a CPU
                break
            send((peak(), time.perf_counter() - start))


def memory(case: str, name: str, seconds: float, limit_mib: float) -> dict:
    """Peak memory of one encode and one decode above the loaded model and its input, in a process of its own.

    Ours does what its command line does: segments where a codec looks at the whole signal. `None` where it needs more
    than `limit_mib`.
    """
    row = {"model": case, "codec": name, "seconds": seconds, "limit_mib": limit_mib}
    found = in_a_process(_memory_of, case, name, seconds, limit_mib)
    for direction, (mib, taken) in itertools.zip_longest(("encode", "decode"), found, fillvalue=(None, None)):
        row[f"{direction}_mib"], row[f"{direction}_seconds"] = mib, taken
    return row


def _table(lines: list[list[str]]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def speed_table(rows: list[dict]) -> str:
    def shown(row: dict, column: str, name: str, digits: int) -> str:
        return f"{row[column][name]:.{digits}f}" if name in row[column] else "-"

    names = ("PyPI", "transformers", *OURS)
    lines = [["model", "s", "batch", "threads", "", "GFLOP", *names, "speed-up", "of peak", "other codes"]]
    for row in rows:
        lines.append(
            [
                row["model"],
                f"{row['seconds']:g}",
                str(row["batch"]),
                str(row["threads"]),
                row["direction"],
                f"{row['gflop_per_audio_second']:.1f}",
                *(shown(row, "ms_per_audio_second", name, 1) for name in names),
                " / ".join(shown(row, "speedup", name, 2) for name in OURS),
                " / ".join(shown(row, "share_of_peak", name, 2) for name in names),
                f"{row['other_codes']:.1%}",
            ]
        )
    return _table(lines)


def stream_table(rows: list[dict]) -> str:
    lines = [["model", "chunk, ms", "frames", "threads", "", *(f"{name}, x real time" for name in OURS)]]
    for row in rows:
        speeds = [f"{row['times_real_time'][name]:.1f}" for name in OURS]
        numbers = [f"{row['chunk_ms']:.0f}", str(row["frames"]), str(row["threads"])]
        lines.append([row["model"], *numbers, row["direction"], *speeds])
    return _table(lines)


def memory_table(rows: list[dict]) -> str:
    def shown(row: dict, direction: str) -> str:
        value = row[f"{direction}_mib"]
        return f"more than {row['limit_mib']:.0f}, or not reached" if value is None else f"{value:.0f}"

    lines = [["model", "codec", "seconds", "encode, MiB", "decode, MiB"]]
    lines += [[r["model"], r["codec"], f"{r['seconds']:g}", shown(r, "encode"), shown(r, "decode")] for r in rows]
    return _table(lines)


def main(
    model: Annotated[
        list[str], typer.Option(help=f"Of {', '.join(CASES)}; several times for several; all by default.")
    ] = tuple(CASES),
    seconds: Annotated[list[float], typer.Option(help="Length of the audio; several times for several.")] = (1, 10),
    batch: Annotated[list[int], typer.Option(help="Rows at a time; several times for several.")] = (1,),
    threads: Annotated[list[int], typer.Option(help="Threads; several times for several.")] = (1,),
    chunk_ms: Annotated[
        list[float], typer.Option(help="Chunks of streams, in whole frames of about so long; 0 for no streams.")
    ] = (20, 80, 320),
    budget: Annotated[float, typer.Option(help="Seconds for each measurement, of at least three rounds.")] = 10,
    memory_seconds: Annotated[list[float], typer.Option(help="Lengths to measure memory at (Linux); 0 for none.")] = (
        60,
        300,
        1200,
    ),
    memory_model: Annotated[list[str], typer.Option(help="Models to measure memory of.")] = ("encodec",),
    memory_codec: Annotated[
        list[str], typer.Option(help="Of PyPI, transformers, ours and 'ours fused', those to measure memory of.")
    ] = ("PyPI", "transformers", *OURS),
    memory_limit: Annotated[float, typer.Option(help="MiB above the loaded model at which to give up.")] = 6000,
    only_ours_above: Annotated[float, typer.Option(help="Seconds above which to leave out other codecs' memory.")] = (
        1200
    ),
    output: Annotated[Path, typer.Option(help="JSON file for the figures.")] = Path("out/codec_speed.json"),
) -> None:
    """Time our codecs, plain and fused, beside peers of the same weights, and in streams; measure how memory grows."""
    unknown = sorted({*model, *memory_model} - set(CASES))
    if unknown:
        raise typer.BadParameter(f"no model {unknown[0]!r}; choose among {', '.join(CASES)}.")
    rows: list[dict] = []
    stream_rows: list[dict] = []
    left_out: dict[str, dict[str, str]] = {}
    implementations: dict[str, list[str]] = {}
    for name in (bar := tqdm(model, unit="model")):
        bar.set_description(name)
        codecs, absent = build(name)
        if absent:
            left_out[name] = absent
        for case_threads in threads:
            for case_seconds in seconds:
                for case_batch in batch:
                    rows += measure(name, codecs, case_threads, case_seconds, case_batch, budget)
            if codecs["ours"].model.streamable:
                for case_chunk in filter(None, chunk_ms):
                    stream_rows += measure_streams(name, codecs, case_threads, case_chunk, budget)
        del codecs
    memory_cases = []
    for name in memory_model if any(memory_seconds) else ():
        implementations[name] = list(build(name)[0])
        memory_cases += [
            (name, codec, length)
            for length in memory_seconds
            for codec in implementations[name]
            if length and codec in memory_codec and (codec in OURS or length <= only_ours_above)
        ]
    memory_rows = [memory(*case, memory_limit) for case in tqdm(memory_cases, desc="memory", unit="case")]
    report = {
        **surroundings(),
        "left_out": left_out,
        "speed": rows,
        "streams": stream_rows,
        "memory": memory_rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    typer.echo(speed_table(rows))
    if stream_rows:
        typer.echo("\n" + stream_table(stream_rows))
    if memory_rows:
        typer.echo("\n" + memory_table(memory_rows))
    for name, reasons in left_out.items():
        for peer, reason in reasons.items():
            typer.echo(f"left out: {peer} of {name}: {reason}")
    typer.echo(f"\nWrote {output}.")


if __name__ == "__main__":
    typer.run(main)

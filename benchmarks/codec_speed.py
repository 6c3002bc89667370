"""Our EnCodec beside PyPI's `encodec` 0.1.1 and transformers' `EncodecModel`: speed and memory, in one run.

What it needs beyond the package (`make benchmark` installs it):

    pip install 'codec-lm-hf[benchmark]'
    pip install --no-deps encodec==0.1.1   # its torchaudio is only for files, and need not fit the torch that is here

All models have the architecture of the published 24 kHz model and the same random weights; their codes are compared
before anything is timed. See benchmarks/README.md for the columns.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import platform
import re
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import EncodecConfig, EncodecModel

import codec_lm_hf
from codec_lm_hf import EncodecCodecConfig, EncodecCodecModel
from codec_lm_hf.conversion_scripts.encodec import RULES
from codec_lm_hf.conversion_scripts.engine import rename

BANDWIDTH = 6.0
PEERS = ("encodec", "transformers")
OURS = ("ours", "ours fused")
# Sums in another order may decide a near tie between two codebook entries differently.
LARGEST_SHARE_OF_OTHER_FRAMES = 1e-3
_GEMM_SIZE = 1024


@dataclass
class Codec:
    """One implementation: audio `(batch, 1, samples)` to codes `(batch, codebooks, frames)` and back."""

    model: nn.Module
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def original() -> nn.Module:
    """The model of PyPI's `encodec`, with random weights and codebooks that spread over its latents."""
    # The package imports torchaudio, which it uses for reading files only.
    stub = "torchaudio" not in sys.modules and types.ModuleType("torchaudio")
    if stub:
        sys.modules["torchaudio"] = stub
    try:
        package = importlib.import_module("encodec")
    finally:
        if stub:
            del sys.modules["torchaudio"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the older weight norm
        model = package.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(BANDWIDTH)
    residual = model.encoder(torch.randn(1, 1, 20 * model.sample_rate) * 0.1)[0].t()
    for layer in model.quantizer.vq.layers:
        codebook = layer._codebook
        codebook.embed.copy_(residual[torch.randperm(len(residual))[: len(codebook.embed)]])
        codebook.embed.add_(torch.randn_like(codebook.embed) * residual.std() * 0.3)
        codebook.inited.fill_(1)
        residual = residual - codebook.dequantize(codebook.quantize(residual))
    return model


@torch.no_grad()
def build(names: tuple[str, ...] = (*PEERS, *OURS)) -> dict[str, Codec]:
    """The implementations asked for, all with the same weights."""
    torch.manual_seed(0)
    reference = original()
    state = rename(reference.state_dict(), RULES)
    makers = {
        "encodec": lambda: pypi(reference),
        "transformers": lambda: native(state),
        "ours": lambda: ours(state, fused=False),
        "ours fused": lambda: ours(state, fused=True),
    }
    return {name: makers[name]() for name in names}


def pypi(model: nn.Module) -> Codec:
    return Codec(model, lambda audio: model.encode(audio)[0][0], lambda codes: model.decode([(codes, None)]))


def native(state: dict[str, Tensor]) -> Codec:
    model = EncodecModel(EncodecConfig()).eval()
    # Its convolutions keep their sizes in buffers that no checkpoint has.
    missing, unexpected = model.load_state_dict(state, strict=False)
    unknown = [key for key in missing if not key.endswith(("stride", "kernel_size", "padding_total"))]
    if unexpected or unknown:
        raise RuntimeError(f"transformers' EncodecModel does not take these weights: {unexpected or unknown}")
    return Codec(
        model,
        lambda audio: model.encode(audio, bandwidth=BANDWIDTH).audio_codes[0],
        lambda codes: model.decode(codes[None], [None]).audio_values,
    )


def ours(state: dict[str, Tensor], fused: bool) -> Codec:
    model = EncodecCodecModel(EncodecCodecConfig()).eval()
    model.load_state_dict(state)
    if fused:
        model.fuse()
    return Codec(
        model,
        lambda audio: model.encode(audio, bandwidth=BANDWIDTH).audio_codes,
        lambda codes: model.decode(codes).audio_values,
    )


def operations(codec: Codec, run: Callable[[], object]) -> float:
    """Multiplications and additions of convolutions and LSTMs of PyPI's `encodec` while `run` runs."""
    total = 0

    def count(module: nn.Module, inputs: tuple, output: object) -> None:
        nonlocal total
        if isinstance(module, nn.LSTM):
            total += 2 * inputs[0].shape[0] * inputs[0].shape[1] * sum(w.numel() for w in module.parameters())
        else:
            steps = inputs[0] if isinstance(module, nn.ConvTranspose1d) else output
            total += 2 * len(steps) * steps.shape[-1] * module.weight.numel()

    kinds = (nn.Conv1d, nn.ConvTranspose1d, nn.LSTM)
    hooks = [part.register_forward_hook(count) for part in codec.model.modules() if isinstance(part, kinds)]
    run()
    for hook in hooks:
        hook.remove()
    return total


def sgemm() -> float:
    """Operations per second of one float32 matrix product."""
    a, b = torch.randn(2, _GEMM_SIZE, _GEMM_SIZE)
    start = time.perf_counter()
    torch.mm(a, b)
    return 2 * _GEMM_SIZE**3 / (time.perf_counter() - start)


def compare(codes: dict[str, Tensor]) -> float:
    """Share of frames in which some implementation's codes are not those of the first one.

    Raises:
        RuntimeError: so many that it cannot be near ties.
    """
    first = next(iter(codes.values()))
    other = torch.stack([(value != first).any(1) for value in codes.values()]).any(0).float().mean().item()
    if other > LARGEST_SHARE_OF_OTHER_FRAMES:
        raise RuntimeError(f"{other:.2%} of the frames have other codes; the models do not compute the same thing.")
    return other


@torch.no_grad()
def measure(codecs: dict[str, Codec], threads: int, seconds: float, batch: int, rounds: int) -> list[dict]:
    """Encode and decode with every codec in turn, `rounds` times."""
    torch.set_num_threads(threads)
    audio = torch.randn(batch, 1, int(seconds * 24000)) * 0.1
    codes = {name: codec.encode(audio) for name, codec in codecs.items()}
    other_frames = compare(codes)
    given = codes["encodec"]
    works = {"encode": (lambda codec: codec.encode(audio)), "decode": (lambda codec: codec.decode(given))}
    rows = []
    for direction, work in works.items():
        quantizer = 2 * given.numel() * 1024 * 128 if direction == "encode" else 0
        flops = quantizer + operations(codecs["encodec"], lambda work=work: work(codecs["encodec"]))
        times: dict[str, list[float]] = {name: [] for name in codecs}
        peak = max(sgemm() for _ in range(3))
        for _ in range(rounds):
            for name, codec in codecs.items():
                start = time.perf_counter()
                work(codec)
                times[name].append(time.perf_counter() - start)
            peak = max(peak, *(sgemm() for _ in range(3)))
        audio_seconds = seconds * batch
        row = {
            "direction": direction,
            "threads": threads,
            "seconds": seconds,
            "batch": batch,
            "rounds": rounds,
            "gflop_per_audio_second": flops / audio_seconds / 1e9,
            "sgemm_gflops": peak / 1e9,
            "other_frames": other_frames,
        }
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = {name: min(values) for name, values in times.items()}
        row["ms_per_audio_second"] = {name: value / audio_seconds * 1e3 for name, value in medians.items()}
        row["best_ms_per_audio_second"] = {name: value / audio_seconds * 1e3 for name, value in best.items()}
        row["share_of_peak"] = {name: flops / value / peak for name, value in best.items()}
        row["speedup"] = {
            name: min(medians[peer] for peer in PEERS) / medians[name] for name in OURS
        }  # over the faster peer
        row["best_speedup"] = {name: min(best[peer] for peer in PEERS) / best[name] for name in OURS}
        rows.append(row)
    return rows


def _status(field: str) -> float:
    """A field of this process's status in MiB (Linux)."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@torch.no_grad()
def _memory_of(name: str, seconds: float, sender) -> None:
    torch.set_num_threads(1)
    codec = build((name,))[name]
    codec.decode(codec.encode(torch.randn(1, 1, 2400) * 0.1))
    audio = torch.randn(1, 1, int(seconds * 24000)) * 0.1
    peaks = []
    value: Tensor = audio
    for work in (codec.encode, codec.decode):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        before = _status("VmRSS")
        value = work(value)
        peaks.append(_status("VmHWM") - before)
    sender.send(peaks)


def memory(name: str, seconds: float) -> dict:
    """Peak memory of one encode and one decode above the loaded model and its input, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_memory_of, args=(name, seconds, sender))
    process.start()
    sender.close()
    try:
        encode, decode = receiver.recv()
    except EOFError:  # ended by the system, most likely for lack of memory
        encode = decode = None
    process.join()
    return {"codec": name, "seconds": seconds, "encode_mib": encode, "decode_mib": decode}


def speed_table(rows: list[dict]) -> str:
    head = ["threads", "seconds", "batch", "", *PEERS, *OURS, "speed-up", "of peak", "other frames"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append(
            [
                str(row["threads"]),
                f"{row['seconds']:g}",
                str(row["batch"]),
                row["direction"],
                *(f"{row['ms_per_audio_second'][name]:.1f}" for name in (*PEERS, *OURS)),
                " / ".join(f"{row['speedup'][name]:.2f}" for name in OURS),
                " / ".join(f"{row['share_of_peak'][name]:.2f}" for name in (*PEERS, *OURS)),
                f"{row['other_frames']:.2%}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def memory_table(rows: list[dict]) -> str:
    def shown(value: float | None) -> str:
        return "out of memory" if value is None else f"{value:.0f}"

    head = ["codec", "seconds", "encode, MiB", "decode, MiB"]
    lines = [head, ["---"] * len(head)]
    lines += [[r["codec"], f"{r['seconds']:g}", shown(r["encode_mib"]), shown(r["decode_mib"])] for r in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(
    seconds: Annotated[list[float], typer.Option(help="Length of the audio; several times for several.")] = (
        1,
        10,
        60,
    ),
    batch: Annotated[list[int], typer.Option(help="Rows at a time; several times for several.")] = (1, 8),
    threads: Annotated[list[int], typer.Option(help="Threads; several times for several.")] = (1, 2),
    rounds: Annotated[int, typer.Option(help="Rounds of each measurement; 0: 3 to 20, fewer for more audio.")] = 0,
    memory_seconds: Annotated[list[float], typer.Option(help="Lengths to measure memory at (Linux); 0 for none.")] = (
        10,
        60,
        600,
    ),
    output: Annotated[Path, typer.Option(help="JSON file for the figures.")] = Path("out/codec_speed.json"),
) -> None:
    """Time our EnCodec, plain and fused, and two peers with the same weights; measure how memory grows with length."""
    codecs = build()
    cases = [(t, s, b) for t in threads for s in seconds for b in batch]
    rows: list[dict] = []
    for case_threads, case_seconds, case_batch in (bar := tqdm(cases, unit="case")):
        bar.set_description(f"{case_threads} threads, {case_seconds:g} s x {case_batch}")
        count = rounds or int(max(3, min(20, 80 // (case_seconds * case_batch))))
        rows += measure(codecs, case_threads, case_seconds, case_batch, count)
    memory_cases = [(name, length) for length in memory_seconds if length for name in (*PEERS, *OURS)]
    memory_rows = [memory(name, length) for name, length in tqdm(memory_cases, desc="memory", unit="case")]
    report = {
        "codec_lm_hf": codec_lm_hf.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "bandwidth_kbps": BANDWIDTH,
        "speed": rows,
        "memory": memory_rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    typer.echo(speed_table(rows))
    if memory_rows:
        typer.echo("\n" + memory_table(memory_rows))
    typer.echo(f"\nWrote {output}.")


if __name__ == "__main__":
    typer.run(main)

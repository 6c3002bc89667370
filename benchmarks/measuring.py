"""What the benchmarks share: the head of a report, works that take turns, the machine's bandwidth, and peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import platform
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import codec_lm_hf

_BANDWIDTH_FLOATS = 2**27

# What a work calls when a step of it is done.
Tick = Callable[[], None]


def surroundings() -> dict[str, str]:
    """What figures depend on beside the code that is measured, for the head of a report."""
    return {
        "codec_lm_hf": codec_lm_hf.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def status(field: str) -> float:
    """A field of this process's status in MiB (Linux)."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@contextlib.contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """Within it, and after it, a function gives the peak of this process above where it began, in MiB (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is needed
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    yield lambda: status("VmHWM") - before


def in_a_process(target: Callable, *args) -> list:
    """What `target(*args, send)` sends from a process of its own, as far as it gets."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_all, args=(target, args, sender))
    process.start()
    sender.close()
    found = []
    with contextlib.suppress(EOFError):
        while True:
            found.append(receiver.recv())
    process.join()
    return found


def _send_all(target: Callable, args: tuple, sender) -> None:
    target(*args, sender.send)


def thread_clock(threads: int) -> Callable[[], float]:
    """The clock for works of so many threads: of the CPU for one, which what else the machine does leaves alone."""
    return time.thread_time if threads == 1 else time.perf_counter


class Bandwidth:
    """Bytes per second at which this machine reads memory: sums over half a gigabyte, more than caches hold.

    Attributes:
        found: of each call.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.numbers, self.found = clock, torch.ones(_BANDWIDTH_FLOATS), []

    def __call__(self) -> None:
        start = self.clock()
        self.numbers.sum()
        self.found.append(self.numbers.nbytes / (self.clock() - start))


@dataclass
class Turn:
    """One of the works that take turns.

    Attributes:
        work: called once with a function `tick`, which it calls after each of its steps.
        times: what each step took, in seconds; the last one is from the last tick to the end.
        result: of the work.
    """

    work: Callable[[Tick], Any]
    times: list[float] = field(default_factory=list)
    result: Any = None
    error: BaseException | None = None
    may_go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


def take_turns(
    works: dict[str, Callable[[Tick], Any]],
    threads: int,
    between: Callable[[int], None] = lambda index: None,
    last: Collection[str] = (),
) -> dict[str, Turn]:
    """Run works step by step in turn, one at a time, so that what else the machine does hits all of them alike.

    Every other round goes backwards, so that no work always follows the same one.

    Args:
        works: by name, see `Turn`.
        threads: of torch.
        between: called before each round with its index.
        last: names of works that end every round, because they need what others have found in it.

    Raises:
        BaseException: whatever a work has raised.
    """
    turns, clock, all_done = (
        {name: Turn(work) for name, work in works.items()},
        thread_clock(threads),
        threading.Event(),
    )
    waiting, rounds = [], -1

    def go_on(turn: Turn | None) -> None:
        nonlocal waiting, rounds
        if turn is not None and turn.error is not None:
            all_done.set()
            return
        if not waiting:
            rounds += 1
            going = {name: one for name, one in turns.items() if one.result is None}
            first = [one for name, one in going.items() if name not in last]
            waiting = first[:: -1 if rounds % 2 else 1] + [one for name, one in going.items() if name in last]
            if not waiting:
                all_done.set()
                return
            between(rounds)
        waiting.pop(0).may_go.release()

    def run(turn: Turn) -> None:
        torch.set_num_threads(threads)
        turn.may_go.acquire()
        start = clock()

        def tick() -> None:
            nonlocal start
            turn.times.append(clock() - start)
            go_on(turn)
            turn.may_go.acquire()
            start = clock()

        try:
            turn.result = turn.work(tick)
            turn.times.append(clock() - start)
        except BaseException as error:
            turn.error = error
        go_on(turn)

    for turn in turns.values():
        threading.Thread(target=run, args=(turn,), daemon=True).start()
    go_on(None)
    all_done.wait()
    for turn in turns.values():
        if turn.error is not None:
            raise turn.error
    return turns

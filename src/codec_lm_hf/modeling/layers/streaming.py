"""Time, as layers see it: whole rows, rows of different lengths, or a stream in chunks.

Every layer that looks along time is called `layer(x, time)` with one of

- `None`: offline, every row of the batch is valid to its end;
- `TimeContext`: offline, rows have different lengths. Layers treat each row as if it stood alone;
- `Stream`: `x` is the next chunk. Layers keep what they need for the next call in the stream, never in themselves,
  so one model serves any number of streams;
- `Unpadded`: offline, `x` is a window out of a longer signal. Nothing is padded or trimmed.

With a stream, a layer returns the steps that are complete so far (perhaps none); on the final chunk, the rest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cpu_inference import join


class TimeContext:
    """Lengths of the rows of an offline batch at the rate of the layer that is being computed.

    Args:
        lengths: valid steps of each row, int64 of shape `(batch,)`. Layers that change the rate update it in place.
    """

    def __init__(self, lengths: Tensor | None = None) -> None:
        self.lengths = lengths

    def mask(self, steps: int) -> Tensor | None:
        """Bool tensor `(batch, 1, steps)`, true on valid steps; `None` where every step is valid."""
        if self.lengths is None:
            return None
        return (torch.arange(steps, device=self.lengths.device) < self.lengths[:, None])[:, None]


class Unpadded(TimeContext):
    """A window out of a longer signal: convolutions give the outputs whose input is all there, transposed ones all.

    DAC codes long audio in such windows (`CodecMixin.compress` in `dac/model/base.py`).
    """


class Stream(TimeContext):
    """What the layers of one model carry from chunk to chunk; all rows of `x` move in step.

    Attributes:
        final: the chunk being processed is the last one.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.final = False
        self._carried: dict[nn.Module, Any] = {}

    def take(self, layer: nn.Module) -> Any:
        """What `layer` kept in its last call, or `None` at the start of the stream."""
        return self._carried.get(layer)

    def keep(self, layer: nn.Module, value: Any) -> None:
        self._carried[layer] = value

    def select(self, rows: Tensor) -> Stream:
        """A stream that goes on with some of the rows (int64 indices) only."""
        stream = Stream()
        stream.final = self.final
        stream._carried = {layer: _select(value, rows, layer) for layer, value in self._carried.items()}
        return stream

    def __deepcopy__(self, memo: dict) -> Stream:
        """What is carried, for the same layers: they are copied only where the model was, beside the stream."""
        stream = Stream()
        stream.final = self.final
        for layer, value in self._carried.items():
            stream.keep(memo.get(id(layer), layer), copy.deepcopy(value, memo))
        return stream


def _select(value: Any, rows: Tensor, layer: nn.Module) -> Any:
    """The given rows of what a layer carries; a layer whose batch axis is not the first says so by `batch_axis`."""
    if isinstance(value, Tensor):
        return value.index_select(getattr(layer, "batch_axis", 0), rows.to(value.device))
    if isinstance(value, dict):
        return {name: _select(part, rows, layer) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_select(part, rows, layer) for part in value)
    return value


def lengths_of(time: TimeContext | None) -> Tensor | None:
    """Real steps of each row, `(batch,)`; `None` where every row is full."""
    return None if time is None else time.lengths


def zero_padding(x: Tensor, time: TimeContext | None) -> Tensor:
    """Set the steps of `x` `(batch, channels, steps)` beyond each row's length to zero."""
    mask = None if time is None else time.mask(x.shape[-1])
    return x if mask is None else x * mask


def at_least(fewest: int, steps: Tensor | int) -> Tensor | int:
    """`steps`, or `fewest` where that is more."""
    return steps.clamp(min=fewest) if isinstance(steps, Tensor) else max(steps, fewest)


def filled_up(x: Tensor, fewest: int, time: TimeContext | None) -> Tensor:
    """`x` `(batch, channels, steps)` with shorter rows filled up with zeros to `fewest` steps, for layers after it."""
    lengths = lengths_of(time)
    if lengths is not None:
        x = zero_padding(x, time)
        time.lengths = at_least(fewest, lengths)
    missing = fewest - x.shape[-1]
    return F.pad(x, (0, missing)) if missing > 0 else x


def kept_apart(x: Tensor) -> Tensor:
    """A copy of the few steps that a stream carries on: a view would hold the whole chunk in memory."""
    return x.clone()


def pieces(x: Tensor, steps: int) -> Iterator[tuple[Tensor, bool]]:
    """Cut `x` `(..., steps)` into pieces of `steps`, each with whether it is the last one."""
    total = x.shape[-1]
    for start in range(0, total, steps):
        yield x[..., start : start + steps], start + steps >= total


def in_pieces(run: Callable[[Tensor, Stream], Tensor], x: Tensor, stream: Stream, steps: int) -> Tensor:
    """`run(x, stream)`, but on `steps` steps at a time, so that what it computes in between stays in the cache."""
    if x.shape[-1] <= steps:
        return run(x, stream)
    final, parts = stream.final, []
    for piece, last in pieces(x, steps):
        stream.final = final and last
        parts.append(run(piece, stream))
    return join(*parts)


# Values that a layer at the audio's rate computes at a time in a stream: few enough to stay in a CPU's cache.
_CACHED_VALUES = 2**20


def cached_frames(batch_size: int, channels: int, hop_length: int) -> int:
    """Frames for `in_pieces` where a frame has `hop_length` steps of `channels` channels at the audio's rate."""
    return max(1, _CACHED_VALUES // (batch_size * channels * hop_length))


def aligned(layers: Sequence[nn.Module], parts: Sequence[Tensor], time: TimeContext | None) -> Sequence[Tensor]:
    """The steps that parallel paths have all completed.

    Offline these are `parts` themselves. In a stream paths may lag by different numbers of steps, so what one has
    ahead of the others waits in a queue kept for its layer.
    """
    if not isinstance(time, Stream):
        return parts
    parts = [
        part if time.take(layer) is None else join(time.take(layer), part)
        for layer, part in zip(layers, parts, strict=True)
    ]
    steps = min(part.shape[-1] for part in parts)
    for layer, part in zip(layers, parts, strict=True):
        time.keep(layer, kept_apart(part[..., steps:]))
    return [part[..., :steps] for part in parts]


def delayed(layer: nn.Module, x: Tensor, steps: int, time: TimeContext | None) -> Tensor:
    """The part of a skip connection that belongs to the `steps` new steps of the main path.

    Offline this is `x` itself. In a stream the main path may lag, so the skip waits in a queue kept for `layer`. What
    a main path without padding has lost, the skip loses in equal parts at both ends.
    """
    if isinstance(time, Unpadded):
        start = (x.shape[-1] - steps) // 2
        return x[..., start : start + steps]
    if not isinstance(time, Stream):
        return x
    waiting = time.take(layer)
    if waiting is not None:
        x = join(waiting, x)
    time.keep(layer, kept_apart(x[..., steps:]))
    return x[..., :steps]

"""What surrounds the loop of `generate`: masks, prompts and ends of rows, and who listens while it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import Cache
from transformers.generation.streamers import BaseStreamer

from .code_patterns import CodePattern
from .lm_base import NO_CODE


def generates(method: Callable) -> Callable:
    """What holds for every `generate`: no gradients, `num_return_sequences`, a `streamer` that is told the end."""

    @functools.wraps(method)
    @torch.no_grad()
    def generate(self, *args, streamer: BaseStreamer | None = None, **kwargs):
        with _told_the_end(streamer):
            config = kwargs.get("generation_config") or self.generation_config
            count = kwargs.get("num_return_sequences", config.num_return_sequences)
            args, kwargs = _repeated(count, args, kwargs)
            return method(self, *args, streamer=streamer, **kwargs)

    return generate


def _repeated(count: int | None, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """What `generate` is given, each row so many times: its tensors all have rows."""
    if count in (None, 1):
        return args, kwargs
    if count < 1:
        raise ValueError(f"num_return_sequences={count}, but each row is played at least once: give 1 or more.")

    def rows(value):
        return value.repeat_interleave(count, dim=0) if isinstance(value, Tensor) and value.ndim else value

    return tuple(map(rows, args)), {name: rows(value) for name, value in kwargs.items()}


@contextmanager
def _told_the_end(streamer: BaseStreamer | None) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        # Whoever reads a streamer does so in another thread, and would wait there for ever.
        if hasattr(streamer, "fail"):
            streamer.fail(error)
        elif streamer is not None:
            streamer.end()
        raise
    if streamer is not None:
        streamer.end()


def step_mask(cache: Cache, valid: Tensor | None, device: torch.device) -> Tensor | None:
    """What one step after those of a cache may attend to: to them and to itself.

    Args:
        cache: not empty. Of a static one the mask has always the same shape.
        valid: `(batch, steps)` bool, false on steps at the beginning that nothing may look at; `None`: there are none.
            It may be short of later steps, all of which are seen.
        device: of the mask.

    Returns:
        `(batch or 1, 1, 1, steps)` bool, as `Transformer` takes it.
    """
    past, room = cache.get_seq_length(), cache.get_max_length(0)
    steps = room if room > 0 else past + 1
    if valid is not None:
        valid = torch.nn.functional.pad(valid, (0, steps - valid.shape[1]), value=True)
    if room > 0:
        reached = torch.arange(room, device=device)[None] <= past
        valid = reached if valid is None else valid & reached
    return None if valid is None else valid[:, None, None]


def frames_after(codes: Tensor, lengths: Tensor, ends: Tensor, start: int, end: int) -> Tensor:
    """What follows the prompts.

    Args:
        codes: `(batch, codebooks, frames)`, prompts and what follows them.
        lengths: `(batch,)` frames of each row's prompt.
        ends: `(batch,)` frame at which each row ends.
        start, end: which frames, counted from the end of each row's prompt.

    Returns:
        `(batch, codebooks, end - start)`, `NO_CODE` after a row's end.
    """
    places = lengths[:, None] + torch.arange(start, end, device=codes.device)
    within = places.clamp(max=codes.shape[-1] - 1)[:, None].expand(-1, codes.shape[1], -1)
    return codes.gather(2, within).masked_fill((places >= ends[:, None])[:, None], NO_CODE)


# The sequence of a window, its known steps, the steps at which rows end, and whether they did so by themselves.
Listener = Callable[[Tensor, int, Tensor, Tensor], None]


class FrameFeed:
    """Hands frames to a streamer as soon as all rows have them.

    Args:
        streamer: its `put` gets `(batch, codebooks, frames)` on the CPU, `NO_CODE` after a row's end.
        codes: `(batch, codebooks, frames)`, prompts and room for what follows; it is filled.
        lengths: `(batch,)` frames of each row's prompt, which the streamer does not get.
    """

    def __init__(self, streamer: BaseStreamer, codes: Tensor, lengths: Tensor) -> None:
        self.streamer = streamer
        self.codes = codes
        self.lengths = lengths
        self.fed = 0

    def listener(self, pattern: CodePattern, start: int, known: Tensor, ends: Tensor) -> Listener:
        """For the loop over a window that begins at frame `start`; see `ends_of_rows` for `known` and `ends`."""
        longest = int(self.lengths.max())

        def after_step(sequence: Tensor, steps: int, stops: Tensor, stopped: Tensor) -> None:
            complete = int(pattern.complete_frames(steps))
            if start + complete - longest > self.fed:
                found = pattern.revert(sequence[..., :steps], NO_CODE)
                self.codes[..., start : start + complete] = found[..., :complete]
                self.feed(start + complete - longest, ends_of_rows(pattern, start, stops, stopped, known, ends))

        return after_step

    def feed(self, frames: int, ends: Tensor) -> None:
        """Hand over what is new among so many frames after the prompts."""
        if frames > self.fed:
            self.streamer.put(frames_after(self.codes, self.lengths, ends, self.fed, frames).cpu())
            self.fed = frames


def ends_of_rows(
    pattern: CodePattern, start: int, stops: Tensor, stopped: Tensor, known: Tensor, ends: Tensor
) -> Tensor:
    """Frames at which rows end, where the loop over a window stopped some of them.

    Args:
        pattern: of the window.
        start: its first frame.
        stops: `(batch,)` steps at which rows stopped.
        stopped: `(batch,)` bool, whether they did.
        known: `(batch,)` frames that they had before the window, which they keep.
        ends: `(batch,)` frames at which they end if they did not.
    """
    complete = torch.maximum(start + pattern.complete_frames(stops), known)
    return torch.where(stopped, torch.minimum(complete, ends), ends)

"""Orders of codes: which step of a sequence holds the code of which stream and frame.

A language model over several codebooks needs an order of its (stream, frame) pairs. A `CodePattern` is that order as
data: a slot and a step for every pair. Delay, parallel, flattened and coarse-first orders differ in nothing else, so
building a sequence, taking it apart, masks and labels are written once, as gathers and scatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodePattern:
    """Where each code stands in a sequence of steps with one or more slots.

    Attributes:
        steps: `(streams, frames)` int64, the step of each code. Step 0 is never used: a model that has seen steps
            `0..s - 1` predicts step `s`, so something must stand before the first code.
        slots: `(streams, frames)` int64, its place within the step.
        num_slots: codes that a step can hold.
        length: steps.
        valid_length: `length` without the steps at the end that are there because streams are late.
    """

    steps: Tensor
    slots: Tensor
    num_slots: int
    length: int
    valid_length: int

    @property
    def mask(self) -> Tensor:
        """`(num_slots, length)` bool, true where a code stands."""
        mask = torch.zeros(self.num_slots, self.length, dtype=torch.bool)
        mask[self.slots, self.steps] = True
        return mask

    def build(self, codes: Tensor, fill: int, only_valid: bool = False) -> Tensor:
        """Codes as a sequence.

        Args:
            codes: `(batch, streams, frames)`.
            fill: id of empty places.
            only_valid: leave out the steps beyond `valid_length`.

        Returns:
            `(batch, num_slots, length)`, or `valid_length` steps.

        Raises:
            ValueError: `codes` has other streams or frames than the pattern.
        """
        streams, frames = self.steps.shape
        if codes.ndim != 3 or codes.shape[1:] != (streams, frames):
            raise ValueError(
                f"codes must have shape (batch, {streams}, {frames}) for this pattern, got {tuple(codes.shape)}."
            )
        places = self._places(codes.device).flatten().expand(len(codes), -1)
        flat = codes.new_full((len(codes), self.num_slots * self.length), fill)
        sequence = flat.scatter(1, places, codes.flatten(1)).unflatten(1, (self.num_slots, self.length))
        return sequence[..., : self.valid_length] if only_valid else sequence

    def revert(self, sequence: Tensor, fill: int) -> Tensor:
        """The codes of a sequence; `build` undone.

        Args:
            sequence: `(batch, num_slots, steps)`, at most `length` steps.
            fill: id of codes whose step is beyond the end of `sequence`.

        Returns:
            `(batch, streams, frames)`.
        """
        return self._gather(sequence, self.steps, fill)

    def revert_logits(self, logits: Tensor, fill: float = 0.0) -> tuple[Tensor, Tensor]:
        """What a model said of each code, from the output of the step before it.

        Args:
            logits: `(batch, num_slots, steps, vocabulary)`, one output per input step.
            fill: logits of codes that no step predicts.

        Returns:
            `(batch, streams, frames, vocabulary)`, and which codes were predicted, `(streams, frames)` bool.
        """
        moved = logits.permute(0, 3, 1, 2).flatten(0, 1)
        predicting = self.steps - 1
        codes = self._gather(moved, predicting, fill).unflatten(0, (len(logits), -1)).permute(0, 2, 3, 1)
        return codes, (predicting < logits.shape[2]).to(logits.device)

    def labels(self, sequence: Tensor, ignore: int = -100) -> Tensor:
        """What each step of `sequence` `(batch, num_slots, length)` is to predict: the next, where it holds codes."""
        mask = self.mask[:, 1 : sequence.shape[-1]].to(sequence.device)
        labels = torch.full_like(sequence, ignore)
        labels[..., :-1] = torch.where(mask, sequence[..., 1:], ignore)
        return labels

    def first_step(self, frame: int) -> int:
        """The first step that holds a code of `frame` or a later one: where generation goes on after a prompt."""
        if not 0 <= frame < self.steps.shape[1]:
            raise ValueError(f"frame must be in 0..{self.steps.shape[1] - 1}, got {frame}.")
        return int(self.steps[:, frame:].min())

    def complete_frames(self, steps: int | Tensor) -> Tensor:
        """Leading frames of which every code stands within the first `steps` steps, of the shape of `steps`."""
        steps = torch.as_tensor(steps)
        return (self._last_steps.to(steps.device) < steps[..., None]).sum(-1)

    def steps_for(self, frames: Tensor) -> Tensor:
        """Leading steps that hold every code of so many leading frames, 0 for none; of the shape of `frames`."""
        needed = torch.nn.functional.pad(self._last_steps + 1, (1, 0))
        return needed.to(frames.device)[frames]

    @property
    def _last_steps(self) -> Tensor:
        """`(frames,)`, the last step that holds a code of a frame or of one before it."""
        return self.steps.amax(0).cummax(0).values

    def _places(self, device: torch.device) -> Tensor:
        return (self.slots * self.length + self.steps).to(device)

    def _gather(self, sequence: Tensor, steps: Tensor, fill: float) -> Tensor:
        within = steps < sequence.shape[-1]
        places = self.slots * sequence.shape[-1] + steps.clamp(max=sequence.shape[-1] - 1)
        found = sequence.flatten(1)[:, places.to(sequence.device)]
        return torch.where(within.to(sequence.device), found, torch.full_like(found, fill))


def _one_slot_per_stream(steps: Tensor, length: int, late: int = 0) -> CodePattern:
    """A pattern in which every stream keeps a slot of its own, the last one so many frames later than the first."""
    slots = torch.arange(len(steps))[:, None].expand_as(steps)
    return CodePattern(steps, slots, len(steps), length, length - late)


def _check(frames: int, streams: int, delays: Sequence[int] = ()) -> None:
    if frames < 1 or streams < 1:
        raise ValueError(f"a pattern needs at least one stream and one frame, got {streams} and {frames}.")
    if any(late < 0 for late in delays):
        raise ValueError(f"delays must be zero or more, got {list(delays)}.")


def _grid(frames: int, streams: int) -> tuple[Tensor, Tensor]:
    """Every stream, as a column, and every frame, as a row."""
    _check(frames, streams)
    return torch.arange(streams)[:, None], torch.arange(frames)[None]


def delay(frames: int, delays: Sequence[int], flatten_first: int = 0, empty_initial: int = 0) -> CodePattern:
    """Stream `k` is `delays[k]` steps late; all are parallel with zero delays.

    Args:
        frames: to arrange.
        delays: steps of each stream.
        flatten_first: this many first frames have one code per step.
        empty_initial: empty steps in front, beside the first.

    Source: MusicGen (Copet et al., 2023), section 2.2; `DelayedPatternProvider` in audiocraft.
    """
    _check(frames, len(delays), delays)
    stream, frame = _grid(frames, len(delays))
    longest, flat, begin = max(delays), min(flatten_first, frames), 1 + empty_initial
    after_flat = begin + flat * len(delays)
    steps = torch.where(
        frame < flat,
        begin + frame * len(delays) + stream,
        after_flat + frame - flat + torch.tensor(delays)[:, None],
    )
    length, late = after_flat + max(0, frames + longest - flatten_first), longest - min(delays)
    # Where all frames are flat, no stream is later than another.
    return _one_slot_per_stream(steps, length, late if frames + late > flatten_first else 0)


def parallel(frames: int, streams: int) -> CodePattern:
    """All streams of a frame in one step."""
    return delay(frames, [0] * streams)


def unroll(frames: int, flattening: Sequence[int], delays: Sequence[int] | None = None) -> CodePattern:
    """Several steps a frame: stream `k` stands in the `flattening[k]`-th of them, `delays[k]` frames late.

    Args:
        frames: to arrange.
        flattening: inner step of each stream; streams of the same inner step must have the same delay.
        delays: frames by which a stream is late; zero by default.

    Source: `UnrolledPatternProvider` in audiocraft.
    """
    delays = [0] * len(flattening) if delays is None else list(delays)
    _check(frames, len(flattening), delays)
    for inner in set(flattening):
        if len(of_step := {late for late, step in zip(delays, flattening, strict=True) if step == inner}) > 1:
            raise ValueError(f"streams of inner step {inner} must have one delay, got {sorted(of_step)}.")
    first_stream = [list(flattening).index(step) for step in sorted(set(flattening))]
    # A step is an inner step of a frame. They follow one another by time, older frames first where times are equal;
    # those of frames beyond the last are empty.
    longest = max(delays)
    order = [
        (frame + delays[stream], frame, stream, flattening[stream])
        for stream in first_stream
        for frame in range(frames + longest - delays[stream])
    ]
    step_of = {(frame, inner): 1 + place for place, (_, frame, _, inner) in enumerate(sorted(order))}
    steps = torch.tensor([[step_of[frame, inner] for frame in range(frames)] for inner in flattening])
    return _one_slot_per_stream(steps, 1 + len(order), longest - min(delays))


def coarse_first(frames: int, streams: int, delays: Sequence[int] | None = None) -> CodePattern:
    """The first stream of all frames, then the others in parallel or with `delays` (one each).

    Source: `CoarseFirstPattern` in audiocraft.
    """
    delays = [0] * (streams - 1) if delays is None else list(delays)
    _check(frames, streams, delays)
    if len(delays) != streams - 1:
        raise ValueError(f"coarse_first needs a delay for each of the {streams - 1} later streams, got {len(delays)}.")
    stream, frame = _grid(frames, streams)
    steps = 1 + frame + torch.where(stream > 0, frames + torch.tensor([0, *delays])[:, None], 0)
    late = max(delays, default=0) - min(delays, default=0)
    return _one_slot_per_stream(steps, int(steps.max()) + 1, late)


def grouped(frames: int, streams: int, group_size: int) -> CodePattern:
    """Groups of `group_size` streams one after the other, each flattened: one code per step.

    Source: `MusicLMPattern` in audiocraft, after the coarse and fine stages of AudioLM (Borsos et al., 2022).
    """
    if group_size < 1 or streams % group_size:
        raise ValueError(f"group_size must be at least 1 and divide the {streams} streams, got {group_size}.")
    stream, frame = _grid(frames, streams)
    group, within = stream // group_size, stream % group_size
    steps = 1 + group * frames * group_size + frame * group_size + within
    return _one_slot_per_stream(steps, 1 + frames * streams)


def flatten(frames: int, streams: int) -> CodePattern:
    """One slot, one code per step, all streams of a frame in turn (AudioLM, section 3.2)."""
    stream, frame = _grid(frames, streams)
    steps, length = 1 + frame * streams + stream, 1 + frames * streams
    return CodePattern(steps, torch.zeros_like(steps), 1, length, length)

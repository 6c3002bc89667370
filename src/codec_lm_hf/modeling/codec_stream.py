"""The state of a streamed batch, and its rows put together again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn

from .layers.streaming import Stream


@dataclass
class _Group:
    """Rows of a streamed batch that started together and therefore move in step."""

    rows: list[int]
    encoder: Stream = field(default_factory=Stream)
    decoder: Stream = field(default_factory=Stream)


class CodecStream:
    """State of one streamed batch, made by `CodecPreTrainedModel.init_stream`.

    `copy.deepcopy` gives a second one that goes on from there with the same model.

    Args:
        batch_size: rows.
        model: whose layers carry something here. Another model's would find nothing and begin anew.
    """

    def __init__(self, batch_size: int, model: nn.Module) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.batch_size = batch_size
        self.model = model
        self.reset()

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Start `rows` (numbers; all, if `None`) anew; the other rows go on."""
        if rows is None:
            self.groups = [_Group(list(range(self.batch_size)))]
            return
        given = rows if isinstance(rows, torch.Tensor) else torch.tensor([*rows])
        if given.ndim != 1 or (len(given) and (given.is_floating_point() or given.dtype == torch.bool)):
            raise ValueError(
                f"rows must be numbers of rows, such as [0, 2], got {rows!r}; of a mask, mask.nonzero().flatten() "
                "gives them."
            )
        rows = sorted({int(row) for row in given})
        outside = [row for row in rows if not 0 <= row < self.batch_size]
        if outside:
            raise ValueError(f"rows {outside} are not in this stream of batch size {self.batch_size}.")
        groups = []
        for group in self.groups:
            keep = [place for place, row in enumerate(group.rows) if row not in rows]
            if len(keep) == len(group.rows):
                groups.append(group)
            elif keep:
                index = torch.tensor(keep)
                streams = (group.encoder.select(index), group.decoder.select(index))
                groups.append(_Group([group.rows[place] for place in keep], *streams))
        self.groups = groups + ([_Group(rows)] if rows else [])

    def __deepcopy__(self, memo: dict) -> CodecStream:
        stream = CodecStream(self.batch_size, memo.get(id(self.model), self.model))
        stream.groups = copy.deepcopy(self.groups, memo)
        return stream

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a stream's state belongs to a model in memory and cannot be pickled; copy.deepcopy makes a second one."
        )


def join_rows(parts: list[tuple[list[int], Tensor]], batch_size: int) -> tuple[Tensor, Tensor | None]:
    """Rows of several groups, `(rows, ..., steps)` each, as one batch padded with zeros, and its mask if needed."""
    if len(parts) == 1:
        return parts[0][1], None
    steps = max(part.shape[-1] for _, part in parts)
    joined = parts[0][1].new_zeros(batch_size, *parts[0][1].shape[1:-1], steps)
    mask = torch.zeros(batch_size, steps, dtype=torch.bool, device=joined.device)
    for rows, part in parts:
        joined[rows, ..., : part.shape[-1]] = part
        mask[rows, : part.shape[-1]] = True
    return joined, None if bool(mask.all()) else mask

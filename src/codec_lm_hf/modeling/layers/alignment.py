"""Which symbol of a text each frame of speech says: given by durations, or followed frame by frame."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# The place of a frame of which it is not known what it says.
NO_SYMBOL = -1


def frame_symbols(durations: Tensor, frames: int) -> Tensor:
    """The place in the text of what each frame says.

    Args:
        durations: `(batch, symbols)`, frames that each symbol lasts.
        frames: columns of the result.

    Returns:
        `(batch, frames)`, `NO_SYMBOL` after a row's last one.
    """
    ends = durations.cumsum(1)
    frame = torch.arange(frames, device=durations.device)
    symbols = torch.searchsorted(ends, frame.expand(len(ends), -1).contiguous(), right=True)
    return symbols.masked_fill(frame >= ends[:, -1:], NO_SYMBOL)


def check_durations(name: str, durations: Tensor, valid: Tensor, lengths: Tensor, optional: bool = False) -> None:
    """Refuse durations that do not fit a text and its frames.

    Args:
        name: of the argument, for the message.
        durations: `(batch, symbols)`.
        valid: `(batch, symbols)` bool, false on padding of the text.
        lengths: `(batch,)` frames of each row.
        optional: rows without any duration are allowed.

    Raises:
        ValueError: a wrong shape, type, sign, place or sum.
    """
    if durations.shape != valid.shape:
        raise ValueError(
            f"{name} must have the shape of input_ids, one for each symbol: {tuple(valid.shape)}; got "
            f"{tuple(durations.shape)}."
        )
    if durations.is_floating_point() or durations.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, in frames; got {durations.dtype}.")
    if (durations < 0).any() or durations.masked_select(~valid).any():
        raise ValueError(f"{name} must be 0 or more, and 0 on the padding of a text; got {durations.tolist()}.")
    sums = durations.sum(1)
    fits = (sums == lengths) | (optional & (sums == 0))
    if not fits.all():
        row = int((~fits).nonzero()[0])
        raise ValueError(
            f"{name} must add up to each row's frames; in row {row} they are {int(sums[row])} for "
            f"{int(lengths[row])} frames."
        )


class AlignedSymbols(nn.Module):
    """Embeds symbols together with their neighbours in the text, for the frames that say them.

    Args:
        vocab_size: symbols.
        dim: of the embeddings.
        context: neighbours on each side.
    """

    def __init__(self, vocab_size: int, dim: int, context: int = 0) -> None:
        super().__init__()
        self.context = context
        # The last entry of each stands for no symbol.
        self.tables = nn.ModuleList([nn.Embedding(vocab_size + 1, dim) for _ in range(2 * context + 1)])

    def forward(self, ids: Tensor, valid: Tensor) -> Tensor:
        """Symbols `(batch, symbols)` to `(batch, symbols + 1, dim)`; the last one is that of `NO_SYMBOL`."""
        nothing, count = self.tables[0].num_embeddings - 1, ids.shape[1]
        ids = nn.functional.pad(ids.where(valid, nothing), (self.context, self.context), value=nothing)
        symbols = sum(table(ids[:, offset : offset + count]) for offset, table in enumerate(self.tables))
        # Not of their weights themselves: what offloads weights puts them in place when a module is called.
        none = sum(table(ids.new_full((len(ids), 1), nothing)) for table in self.tables)
        return torch.cat([symbols, none], dim=1)

    @staticmethod
    def at(symbols: Tensor, places: Tensor) -> Tensor:
        """Of what `forward` gave, the embeddings `(batch, frames, dim)` at places `(batch, frames)`."""
        return symbols[torch.arange(len(symbols), device=symbols.device)[:, None], places]


class TextPointer:
    """Follows a text while it is spoken, frame by frame.

    Args:
        place: `(batch,)`, the symbol that the first frame says.
        symbols: `(batch,)`, how many each text has.
        longest: frames that a symbol lasts at most.
        least: frames of a row at least; its last symbol is held until then.
        threshold: go on as soon as the symbol has probably ended, with at least this probability; `None`: draw.
        draw: probabilities `(batch, classes)` to classes `(batch,)`.
        columns: of `durations`.
    """

    def __init__(
        self,
        place: Tensor,
        symbols: Tensor,
        longest: int,
        least: int,
        threshold: float | None,
        draw: Callable[[Tensor], Tensor],
        columns: int,
    ) -> None:
        self.place, self.symbols = place, symbols
        self.longest, self.least = longest, least
        self.threshold, self.draw = threshold, draw
        self.durations = torch.zeros(len(place), columns, dtype=torch.long, device=place.device)
        self.done = torch.zeros_like(place, dtype=torch.bool)
        self._places: list[Tensor] = []
        # Probability that the symbol has not ended.
        self._goes_on = torch.ones(len(place), device=place.device)

    def advance(self, logits: Tensor) -> None:
        """Count a frame of the symbol, and go to that of the next frame.

        Args:
            logits: `(batch, moves)`, of going on by so many symbols, from none.
        """
        self.durations.scatter_add_(1, self.place[:, None], torch.ones_like(self.place)[:, None])
        probabilities = logits.float().softmax(-1)
        self._goes_on = self._goes_on * probabilities[:, 0]
        likeliest = probabilities[:, 1:].argmax(-1) + 1
        if self.threshold is None:
            moves = self.draw(probabilities)
        else:
            moves = likeliest * (1 - self._goes_on >= self.threshold)
        held = self.durations.gather(1, self.place[:, None])[:, 0]
        moves = torch.where((held >= self.longest) & (moves == 0), likeliest, moves)
        past = self.place + moves >= self.symbols
        self.done = self.done | (past & (self.durations.sum(1) >= self.least))
        self.place = torch.where(past, self.symbols - 1, self.place + moves)
        self._places.append(self.place)
        self._goes_on = self._goes_on.masked_fill(moves > 0, 1.0)

    def last_places(self, count: int) -> Tensor:
        """Where the last so many calls of `advance` went to, `(batch, count)`."""
        if not count:
            return self.place[:, None][:, :0]
        return torch.stack(self._places[-count:], dim=1)

    def most_frames(self) -> Tensor:
        """Frames `(batch,)` until the end of the text, if each symbol from here lasts as long as it may."""
        return ((self.symbols - self.place) * self.longest).clamp(min=self.least)

    def durations_until(self, ends: Tensor) -> Tensor:
        """Frames `(batch, symbols)` of each symbol, of a row's first `ends` `(batch,)` frames."""
        return self.durations.cumsum(1).clamp(max=ends[:, None]).diff(dim=1, prepend=torch.zeros_like(ends)[:, None])

"""The arithmetic coder of `.ecdc` files.

Range coders exist as libraries, and none of them gives these bytes: here the bounds are integers, widened by whole
bits until 2**24 numbers lie between them, then narrowed by a product in float64 that is rounded up for the lower bound
and down for the upper one; and a table leaves at least 2 of 2**24 to every symbol. Each of these choices decides bits
of the file (`ArithmeticCoder` in `encodec/quantization/ac.py`). Bits fill bytes from the least significant one on.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .errors import BitstreamError

RANGE_BITS = 24
TOTAL = 1 << RANGE_BITS
MIN_WIDTH = 2
ROUNDOFF = 1e-8
# Beyond this many bits between the bounds' first difference and their last bit the original gives up.
MAX_BIT = 61


def cumulative_tables(probabilities: Tensor) -> Tensor:
    """Probabilities `(..., symbols)` float32 to tables int64 of the same shape: where in 0..2**24 each symbol ends."""
    rounded = (probabilities / ROUNDOFF).floor() * ROUNDOFF
    reserved = MIN_WIDTH * probabilities.shape[-1] / TOTAL
    widths = (((1 - reserved) * TOTAL) * rounded).floor().long() + MIN_WIDTH
    return widths.cumsum(-1)


class _Bounds:
    """What encoder and decoder keep in step: the interval `low..high`, and the place of its highest open bit."""

    def __init__(self) -> None:
        self.low, self.high, self.top = 0, 0, -1

    def widen(self) -> int:
        """Append bits until the interval holds 2**24 numbers; how many."""
        bits = max(0, RANGE_BITS + 1 - (self.high - self.low + 1).bit_length())
        self.low <<= bits
        self.high = ((self.high + 1) << bits) - 1
        self.top += bits
        if self.top > MAX_BIT:
            raise BitstreamError(
                f"the coder's interval grew to {self.top + 1} bits, of {MAX_BIT + 1}: the data is damaged."
            )
        return bits

    @property
    def ratio(self) -> float:
        """Numbers of the interval per unit of a table."""
        return (self.high - self.low + 1) / TOTAL

    def narrow(self, start: int, end: int, ratio: float) -> tuple[int, int]:
        """Keep the part of the symbol that has `start..end - 1`; the leading bits thereby settled, and how many."""
        self.high = self.low + math.floor((end - 1) * ratio)
        self.low = self.low + math.ceil(start * ratio)
        if self.low >> (self.top + 1):
            raise BitstreamError("the probabilities leave no room for this symbol: do without the language model.")
        # Where float32 probabilities add up to a little more than 1, a table ends beyond 2**24 and `high` can overflow
        # the highest open bit. Then nothing is settled yet, as in the original.
        still_open = min((self.low ^ self.high).bit_length(), self.top + 1)
        settled = self.low >> still_open
        count = self.top + 1 - still_open
        self.low -= settled << still_open
        self.high -= settled << still_open
        self.top = still_open - 1
        return settled, count


class ArithmeticEncoder:
    """Symbols to bytes.

    Attributes:
        overflowed: a symbol's table entry lay beyond 2**24, so that its part of the interval can overlap with
            another's: the bytes are the original's, and in rare cases neither reader gets the symbols back.
    """

    def __init__(self) -> None:
        self._bounds = _Bounds()
        self._bits: list[str] = []
        self.overflowed = False

    def push(self, start: int, end: int) -> None:
        """Append a symbol, given by the table's entry before it (0 for the first) and its own."""
        self.overflowed = self.overflowed or end > TOTAL
        self._bounds.widen()
        settled, count = self._bounds.narrow(start, end, self._bounds.ratio)
        if count:
            self._bits.append(f"{settled:0{count}b}")

    def finish(self) -> bytes:
        """Everything, filled up to whole bytes with zeros."""
        if self._bounds.top >= 0:
            self._bits.append(f"{self._bounds.low:0{self._bounds.top + 1}b}")
        bits = np.frombuffer("".join(self._bits).encode(), np.uint8) - ord("0")
        return np.packbits(bits, bitorder="little").tobytes()


class ArithmeticDecoder:
    """Bytes to symbols.

    Args:
        data: holds the coded symbols.
        start: byte at which they begin.
    """

    def __init__(self, data: bytes, start: int = 0) -> None:
        self._bounds = _Bounds()
        self._data = data
        self._position = 8 * start
        self._current = 0

    def pull(self, table: Sequence[int]) -> int:
        """The next symbol, given its table.

        Raises:
            BitstreamError: the data ends, or holds what no encoder writes.
        """
        bounds = self._bounds
        self._read(bounds.widen())
        offset, ratio = self._current - bounds.low, bounds.ratio
        symbol = bisect_left(table, offset, key=lambda end: (end - 1) * ratio)
        start = table[symbol - 1] if symbol else 0
        if symbol == len(table) or offset < math.ceil(start * ratio):
            raise BitstreamError(
                "the data stands for no symbol: the file is damaged, or was written with other probabilities."
            )
        settled, count = bounds.narrow(start, table[symbol], ratio)
        if count:
            self._current -= settled << (bounds.top + 1)
        return symbol

    def finish(self) -> int:
        """The byte after the coded symbols.

        Raises:
            BitstreamError: their last byte is not filled up with zeros.
        """
        end = -(-self._position // 8)
        if self._position % 8 and self._data[end - 1] >> self._position % 8:
            raise BitstreamError("the bits after the last code are not zero: the file is damaged.")
        return end

    def _read(self, bits: int) -> None:
        if not bits:
            return
        end = self._position + bits
        if end > 8 * len(self._data):
            raise BitstreamError("the file ends within its codes: it was cut short.")
        first = self._position // 8
        window = int.from_bytes(self._data[first : -(-end // 8)], "little") >> self._position % 8
        new = f"{window & ((1 << bits) - 1):0{bits}b}"[::-1]
        self._current = (self._current << bits) | int(new, 2)
        self._position = end

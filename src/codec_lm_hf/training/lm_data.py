"""Data sets of codes (`training.tokenize`) as examples for codec language models, in memory or streamed."""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..bitstream.codes import CodesHeader
from ..processing.codec_lm_processor import CodecLMProcessor
from .data import EpochDataset, without_shard
from .tokenize import read_codes, read_header, shards_of, texts_of

try:
    import datasets
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError(f"data sets need {error.name}: pip install 'codec-lm-hf[train]'.") from error

logger = logging.getLogger(__name__)

Row = dict[str, Any]
# Of a stream, the rows of each speaker that companions are chosen from.
_REMEMBERED = 8


@dataclass(frozen=True)
class Examples:
    """How rows of a data set of codes become what a model takes.

    Attributes:
        processor: of the model.
        inputs: argument of the processor -> column: what the model is told.
        targets: the same: what it is to say.
        prompt: the same, of another row of the speaker.
        join: rows of one speaker that become one example, as if they had been said after one another: texts with a
            space between them, lists end to end. So a model that goes on from a prompt learns what that looks like.
        speaker: column; `None`: all rows are of one speaker.
        longest: frames; longer rows are left out.
        prompt_frames: the fewest and the most frames of a prompt; how many, and which of its row, is drawn. `None`:
            all that it has.
    """

    processor: CodecLMProcessor
    inputs: dict[str, str] = field(default_factory=lambda: {"text": "text"})
    targets: dict[str, str] = field(default_factory=lambda: {"target_codes": "codes"})
    prompt: dict[str, str] = field(default_factory=dict)
    join: int = 1
    speaker: str | None = None
    longest: int | None = None
    prompt_frames: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.join < 1:
            raise ValueError(f"join must be at least 1, got {self.join}.")
        if self.prompt_frames is None:
            return
        if not 1 <= self.prompt_frames[0] <= self.prompt_frames[1]:
            raise ValueError(f"prompt_frames must rise and begin at 1 at least, got {self.prompt_frames}.")
        if other := set(self.prompt.values()) - {"codes"}:
            raise ValueError(
                f"a piece of a prompt is made of its codes alone, but the prompt also has {', '.join(sorted(other))}; "
                "leave prompt_frames (prompt_seconds in a recipe) out, or these."
            )

    @property
    def columns(self) -> set[str]:
        """That it reads."""
        used = {*self.inputs.values(), *self.targets.values(), *self.prompt.values(), "id", "codes", "num_frames"}
        return used | ({self.speaker} if self.speaker else set())

    @property
    def companions(self) -> int:
        """Other rows of the speaker that an example needs."""
        return self.join - 1 + bool(self.prompt)

    def takes(self, row: Row) -> bool:
        """Whether a row has all that is needed, and is not too long."""
        return all(_is_known(row[column]) for column in self.columns) and (
            self.longest is None or row["num_frames"] <= self.longest
        )

    def speaker_of(self, row: Row) -> Any:
        return row[self.speaker] if self.speaker else None

    def __call__(self, row: Row, companions: Sequence[Row], rng: np.random.Generator) -> dict[str, Tensor]:
        """The example of a row and of as many `companions` as it needs, the prompt's last; `rng` draws its piece.

        Raises:
            ValueError: the processor does not take the row, which is named.
        """
        joined = [*companions[: self.join - 1], row]
        given = {
            argument: [_joined([self._value(part, column) for part in joined])]
            for argument, column in {**self.inputs, **self.targets}.items()
        }
        if self.prompt and self.prompt_frames is not None:
            companions = [*companions[:-1], self._piece(companions[-1], rng)]
        given |= {argument: [self._value(companions[-1], column)] for argument, column in self.prompt.items()}
        try:
            made = self.processor(**given)
        except ValueError as error:
            # Among thousands of rows, it could not be found otherwise.
            raise ValueError(f"row {row['id']!r}: {error}") from error
        return {name: value[0] for name, value in made.items()}

    def _piece(self, row: Row, rng: np.random.Generator) -> Row:
        frames = row["num_frames"]
        count = min(int(rng.integers(*self.prompt_frames, endpoint=True)), frames)
        start = int(rng.integers(frames - count, endpoint=True))
        return {**row, "codes": [codebook[start : start + count] for codebook in row["codes"]]}

    def _value(self, row: Row, column: str) -> Any:
        # The first codebooks of a residual codec are its codes at a lower rate.
        return row[column][: self.processor.num_codebooks] if column == "codes" else row[column]


def _is_known(value: Any) -> bool:
    """Whether a row has a value. A CSV file has empty texts where JSON has `null`."""
    return bool(value.strip()) if isinstance(value, str) else value is not None


def _joined(values: list) -> Any:
    """Texts with spaces between them, lists (of lists) end to end along their last axis."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, str):
        return " ".join(values)
    if first and isinstance(first[0], list):
        return [list(itertools.chain(*parts)) for parts in zip(*values, strict=True)]
    return list(itertools.chain(*values))


class CodesDataset(EpochDataset):
    """Examples of rows that are held in memory.

    Which companions a row has is a function of (seed, epoch, place) alone, so an interrupted run goes on with what it
    would have seen.

    Args:
        rows: with the columns that `examples` names, as `read_rows` gives them.
        examples: made of the rows. Rows that it does not take, and those of speakers who have too few, are left out
            and counted in a warning.
        seed: of the choice of companions.

    Raises:
        ValueError: no row is left.
    """

    def __init__(self, rows: datasets.Dataset, examples: Examples, seed: int = 0) -> None:
        super().__init__()
        self.rows, self.examples, self.seed = rows, examples, seed
        # Without the codes, which are the most of it.
        facts = rows.select_columns(sorted(examples.columns - {"codes"}))
        speakers: dict[Any, list[int]] = defaultdict(list)
        for place, row in enumerate(facts):
            if examples.takes({"codes": (), **row}):
                speakers[examples.speaker_of(row)].append(place)
        groups = [np.array(places) for places in speakers.values() if len(places) > min(1, examples.companions)]
        # Of each row that is kept: its place in `rows`, its group, and its place there.
        self._kept = sorted(
            (int(place), group, number) for group, places in enumerate(groups) for number, place in enumerate(places)
        )
        self._groups = groups
        if not self._kept:
            raise ValueError(
                f"of {len(rows)} rows none can be used: each needs {', '.join(sorted(examples.columns))}"
                + (f", at most {examples.longest} frames" if examples.longest else "")
                + (" and another row of the same speaker." if examples.companions else ".")
            )
        if len(self._kept) < len(rows):
            logger.warning("%d of %d rows are left out.", len(rows) - len(self._kept), len(rows))

    def __len__(self) -> int:
        return len(self._kept)

    def row(self, index: int) -> Row:
        """The row of an example."""
        return self.rows[self._kept[index][0]]

    def companions(self, index: int) -> list[Row]:
        """Other rows of the same speaker, as many as an example needs."""
        return self._companions(index, self._rng(index))

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.epoch, index))

    def _companions(self, index: int, rng: np.random.Generator) -> list[Row]:
        _, group, own = self._kept[index]
        count, others = self.examples.companions, len(self._groups[group]) - 1
        if not count:
            return []
        drawn = rng.choice(others, count, replace=others < count)
        # Not itself.
        places = self._groups[group][drawn + (drawn >= own)]
        return [self.rows[int(place)] for place in places]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = self._rng(index)
        return self.examples(self.row(index), self._companions(index, rng), rng)


class StreamCodesDataset(IterableDataset):
    """Examples of rows that are read as they are needed; for what does not fit in memory.

    The stream never ends: after the last row the next epoch begins, in another order. What its n-th example is follows
    from the seed (and, with several loading processes, from their number), so an interrupted run goes on with what it
    would have seen. Companions are rows of the same speaker that came shortly before; the first rows of a speaker are
    companions only.

    Args:
        rows: as `stream_rows` gives them.
        examples, seed: as in `CodesDataset`.
        shuffle_buffer: rows among which the next one is drawn.
    """

    def __init__(
        self, rows: datasets.IterableDataset, examples: Examples, seed: int = 0, shuffle_buffer: int = 1000
    ) -> None:
        self.rows = rows.shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.examples, self.seed = examples, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if without_shard(self.rows):
            return
        worker = get_worker_info()
        part = 0 if worker is None else worker.id
        before: dict[Any, deque[Row]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        count = self.examples.companions
        for epoch in itertools.count():
            self.rows.set_epoch(epoch)
            empty = True
            for index, row in enumerate(filter(self.examples.takes, self.rows)):
                spoken = before[self.examples.speaker_of(row)]
                # It may have come in the epoch before.
                others = [other for other in spoken if other["id"] != row["id"]]
                if others or not count:
                    rng = np.random.default_rng((self.seed, part, epoch, index))
                    drawn = rng.choice(len(others), count, replace=len(others) < count) if count else ()
                    empty = False
                    yield self.examples(row, [others[place] for place in drawn], rng)
                if count:
                    spoken.append(row)
            if empty:
                raise ValueError(
                    f"the stream has no row that can be used: each needs {', '.join(sorted(self.examples.columns))}"
                    + (" and another row of the same speaker." if count else ".")
                )


def read_rows(folders: Sequence[Path], columns: Iterable[str]) -> datasets.Dataset:
    """Columns of data sets of codes, in memory.

    Raises:
        FileNotFoundError: a folder holds no data set of codes.
        ValueError: a column that a data set does not have.
    """
    wanted = sorted(columns)
    return datasets.concatenate_datasets([read_codes(folder, wanted) for folder in folders])


def stream_rows(folders: Sequence[Path], columns: Iterable[str]) -> datasets.IterableDataset:
    """Columns of data sets of codes, read as they are needed.

    Raises:
        FileNotFoundError: a folder holds no data set of codes.
        ValueError: a column that a data set does not have.
    """
    wanted = sorted(columns)
    paths = [str(path) for folder in folders for path in shards_of(folder, wanted)]
    return datasets.load_dataset("parquet", data_files=paths, split="train", streaming=True, columns=wanted)


def read_texts(folders: Sequence[Path], column: str) -> Iterator[str]:
    """The texts of one column that are there.

    Raises:
        ValueError: there is no such column, or it has no texts.
    """
    for folder in folders:
        yield from filter(lambda text: text is not None, texts_of(read_codes(folder, [column]), column))


def has_column(folders: Sequence[Path], column: str) -> bool:
    """Whether all of some data sets of codes have a column."""
    return all(column in pq.read_schema(path).names for folder in folders for path in shards_of(folder))


def read_headers(folders: Sequence[Path]) -> CodesHeader:
    """Which codec made the codes of several data sets; if they have different numbers of codebooks, the fewest.

    Raises:
        FileNotFoundError: a folder holds no data set of codes.
        ValueError: they are of different codecs.
    """
    headers = {folder: read_header(folder) for folder in folders}
    first, *others = headers
    for other in others:
        for name in ("fingerprint", "sampling_rate", "hop_length", "codebook_size"):
            one, two = getattr(headers[first], name), getattr(headers[other], name)
            if one != two:
                raise ValueError(
                    f"{first} and {other} hold codes of different codecs: {name} {one} and {two}; tokenize them with "
                    "the same one."
                )
    return min(headers.values(), key=lambda header: header.num_codebooks)

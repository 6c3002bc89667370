"""Recordings together with what is known about them: a folder, or a data set of the `datasets` library."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..processing.audio import audio_files, files_below
from ..processing.metadata import NAMES, read_metadata, read_text
from .data import audio_of, undecoded

try:
    import datasets
    import pyarrow as pa
except ImportError as error:
    raise ImportError(f"data sets need {error.name}: pip install 'codec-lm-hf[train]'.") from error


@dataclass(frozen=True)
class LabelledRecordings:
    """Recordings and the columns beside them.

    Attributes:
        ids: one a recording, unique and the same in every run.
        dataset: of a row each; its audio column gives files or bytes.
        column: the audio column.
    """

    ids: Sequence[str]
    dataset: datasets.Dataset
    column: str

    def __post_init__(self) -> None:
        if len(self.ids) != len(set(self.ids)):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise ValueError(f"{twice} is listed more than once; each recording must be there once.")

    @property
    def features(self) -> datasets.Features:
        """Types of the columns that `labels` gives: all but audio."""
        kept = {name: kind for name, kind in self.dataset.features.items() if not isinstance(kind, datasets.Audio)}
        return datasets.Features(kept)

    def audio(self, places: Sequence[int]) -> list[tuple[str, str | io.BytesIO]]:
        """Name, and file name or open file, of each recording asked for."""
        rows = self.dataset.select_columns([self.column]).with_format("arrow")[list(places)].to_pylist()
        return [audio_of(row, self.column, place) for place, row in zip(places, rows, strict=True)]

    def renamed(self, column: str, suffix: str) -> LabelledRecordings:
        """The same with a suffix to each name in a column.

        Raises:
            ValueError: there is no such column.
        """
        if column not in self.features:
            raise ValueError(f"there is no column {column!r}; the recordings have {', '.join(self.features)}.")
        names = [None if name is None else f"{name}{suffix}" for name in self.dataset[column]]
        order, kind = self.dataset.column_names, datasets.Value("string")
        dataset = self.dataset.remove_columns(column).add_column(column, names, feature=kind).select_columns(order)
        return replace(self, dataset=dataset)

    def labels(self, places: Sequence[int]) -> pa.Table:
        """The other columns of the recordings asked for, as they are stored."""
        if not self.features:
            return pa.table({})
        return self.dataset.select_columns(list(self.features)).with_format("arrow")[list(places)]


def load_labelled(
    source: str | Path,
    split: str | None = None,
    name: str | None = None,
    column: str = "audio",
    revision: str | None = None,
) -> LabelledRecordings:
    """Open a folder of audio (`labelled_folder`), or whatever `datasets` loads by a path or a repository id.

    Args:
        source: folder, directory that `Dataset.save_to_disk` wrote, or path or repository id for `load_dataset`.
        split, name, revision: of a data set, as in `datasets.load_dataset`.
        column: its audio column.

    Raises:
        FileNotFoundError: nothing to read is there.
        ValueError: a data set with several splits of which none is chosen; no such column; for a folder of audio,
            a split, a name or a revision, which it does not have.
    """
    folder = Path(source)
    if any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        dataset = datasets.load_from_disk(folder)
        dataset = dataset[split] if split and isinstance(dataset, dict) else dataset
    elif folder.is_dir() and (_described(folder) or audio_files(folder)):
        if split or name or revision:
            raise ValueError(
                f"{folder} is a folder of audio and has no splits, configurations or revisions: name a "
                "folder below it instead."
            )
        return labelled_folder(folder)
    else:
        try:
            dataset = datasets.load_dataset(str(source), name, split=split, revision=revision)
        except ConnectionError as error:
            raise ConnectionError(
                f"{source} is no folder of audio here, and as a data set of the Hub it could not be reached: {error}"
            ) from error
    if isinstance(dataset, dict):
        raise ValueError(f"{source} has the splits {', '.join(dataset)}: choose one of them (--split).")
    return labelled_dataset(dataset, column)


def labelled_dataset(dataset: datasets.Dataset, column: str = "audio") -> LabelledRecordings:
    """Recordings of a data set that is not streamed. The number of a row is its id."""
    return LabelledRecordings([str(place) for place in range(len(dataset))], undecoded(dataset, column), column)


def labelled_folder(folder: str | Path) -> LabelledRecordings:
    """Recordings below a folder, with the columns of `metadata.jsonl` or `metadata.csv`, or a text beside each.

    A folder with metadata has the recordings named there; elsewhere all audio files count, and the transcript of
    `a.wav` is `a.txt` if there is one. The path below `folder` is a recording's id.

    Raises:
        FileNotFoundError: no audio there.
        ValueError: a recording listed twice; a column that mixes types; a transcript that is not UTF-8.
    """
    folder = Path(folder)
    rows = [row for described in _described(folder) for row in _described_rows(folder, described)]
    rows += [row for path in audio_files(folder) if (row := _plain_row(folder, path)) is not None]
    if not rows:
        raise FileNotFoundError(f"{folder} holds no audio files; give a folder with wav, flac, ogg or mp3 files.")
    names = dict.fromkeys(name for _, row in rows for name in row)
    columns = {name: _column(name, [row.get(name) for _, row in rows]) for name in names}
    dataset = datasets.Dataset(pa.table(columns))
    return LabelledRecordings([identity for identity, _ in rows], undecoded(dataset, "file_name"), "file_name")


def _described(folder: Path) -> list[Path]:
    """Folders with metadata."""
    paths = files_below(folder, [Path(name).suffix for name in NAMES])
    return sorted({path.parent for path in paths if path.name in NAMES})


def _described_rows(root: Path, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Id and columns of each row of a folder's metadata, `file_name` as a path that opens."""
    below = PurePosixPath(folder.relative_to(root).as_posix())
    rows = read_metadata(folder) or []
    return [(str(below / row["file_name"]), {**row, "file_name": str(folder / row["file_name"])}) for row in rows]


def _plain_row(root: Path, path: Path) -> tuple[str, dict[str, Any]] | None:
    """Id and columns of a file by itself; `None` if metadata above it speaks for its folder."""
    parents = path.relative_to(root).parents
    if any((root / parent / name).is_file() for parent in parents for name in NAMES):
        return None
    row = {"file_name": str(path)}
    transcript = path.with_suffix(".txt")
    if transcript.is_file():
        row["text"] = read_text(transcript).strip()
    return path.relative_to(root).as_posix(), row


def _column(name: str, values: list) -> pa.Array:
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(
            f"the metadata's column {name!r} mixes types, or numbers are too large ({error}); make it one of text or "
            "numbers."
        ) from error
    # A column without a value has no type, and the next data set may have one.
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column

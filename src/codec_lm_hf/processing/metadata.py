"""What a folder of audio says about its files: `metadata.jsonl` or `metadata.csv`, as Hugging Face audio folders."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("metadata.jsonl", "metadata.csv")


def read_metadata(folder: str | Path) -> list[dict[str, Any]] | None:
    """Rows of a folder's metadata, each with a `file_name` relative to the folder; `None` where it has none.

    What a CSV file holds is text; JSON keeps its types.

    Raises:
        ValueError: a line names no file; the file is not UTF-8, or no CSV; two of its columns have one name.
    """
    for name in NAMES:
        path = Path(folder) / name
        if path.is_file():
            return list(_rows(path))
    return None


def read_text(path: Path) -> str:
    """What a text file holds, with or without a byte order mark.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text in UTF-8, but {error.reason} at byte {error.start}; convert it."
        ) from error


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    file = io.StringIO(read_text(path), newline="")
    if path.suffix == ".csv":
        # Strictly: a quotation mark that is never closed would make one text of all rows after it.
        yield from _csv_rows(csv.DictReader(file, strict=True), path)
        return
    for number, line in enumerate(file, 1):
        if line.strip():
            yield _json_row(line, f"{path}, line {number}")


def _csv_rows(reader: csv.DictReader, path: Path) -> Iterator[dict[str, str]]:
    while (row := _next_row(reader, path)) is not None:
        if len(set(reader.fieldnames)) < len(reader.fieldnames):
            names = ", ".join(reader.fieldnames)
            raise ValueError(f"{path} has two columns of one name ({names}); rename one of them.")
        if not row.get("file_name") or None in row or None in row.values():
            names = ", ".join(reader.fieldnames)
            raise ValueError(
                f"{path}, line {reader.line_num} must fill file_name and have a field for each of {names}."
            )
        yield row


def _next_row(reader: csv.DictReader, path: Path) -> dict[str, str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num} is no CSV ({error}); put a text with quotation marks into such marks, "
            "and write each of its own twice."
        ) from error


def _json_row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row["file_name"], str):
            return row
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{place} must be a JSON object with a file_name, got {line[:80]!r}.") from error
    raise ValueError(f"{place} must have a text as its file_name, got {row['file_name']!r}.")

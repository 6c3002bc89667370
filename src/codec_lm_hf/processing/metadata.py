"""What a folder of audio says about its files: `metadata.jsonl` or `metadata.csv`, as Hugging Face audio folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("metadata.jsonl", "metadata.csv")


def read_metadata(folder: str | Path) -> list[dict[str, Any]] | None:
    """Rows of a folder's metadata, each with a `file_name` relative to the folder; `None` where it has none.

    What a CSV file holds is text; JSON keeps its types.

    Raises:
        ValueError: a line names no file.
    """
    for name in NAMES:
        path = Path(folder) / name
        if path.is_file():
            return list(_rows(path))
    return None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        for row in reader:
            if not row.get("file_name") or None in row:
                raise ValueError(
                    f"{path}, line {reader.line_num} must fill a column file_name and no column too many."
                )
            yield row
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield _json_row(line, f"{path}, line {number}")


def _json_row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row["file_name"], str):
            return row
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{place} must be a JSON object with a file_name, got {line[:80]!r}.") from error
    raise ValueError(f"{place} must have a text as its file_name, got {row['file_name']!r}.")

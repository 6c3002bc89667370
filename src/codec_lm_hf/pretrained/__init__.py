"""The small checkpoints that come with the package, and the names that are the same on every machine."""

from __future__ import annotations

import os
from pathlib import Path

_PREFIX = "bundled:"


def bundled(name: str) -> str:
    """Path of a small checkpoint that comes with the package, for `from_pretrained`.

    Args:
        name: `"codec"`, the 16 kHz speech codec; `"tts"`, a VALL-E over it, which speaks (its frontend takes the extra
            `gruut`; `voice.ogg` beside it is a prompt).

    Raises:
        ValueError: nothing of this name is bundled.
    """
    root = Path(__file__).parent
    names = sorted(path.parent.name for path in root.glob("*/config.json"))
    if name not in names:
        raise ValueError(f"no bundled checkpoint {name!r}; there is: {', '.join(names)}.")
    return str(root / name)


def is_bundled(name_or_path: str | os.PathLike) -> bool:
    """Whether this is `bundled:NAME`, what files call a bundled checkpoint: its path differs between machines."""
    return str(name_or_path).startswith(_PREFIX)


def locate(name_or_path: str | os.PathLike) -> str | os.PathLike:
    """The path behind `bundled:NAME`; every other name as it is."""
    return bundled(str(name_or_path).removeprefix(_PREFIX)) if is_bundled(name_or_path) else name_or_path

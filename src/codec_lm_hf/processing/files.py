"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that is at `path` once it is complete; a link there stays one, and what it leads to is replaced.

    What is unfinished is called `.NAME.HEX.partial`: of several programs that write to one place, none sees another's,
    and each takes its own away unless it is killed.
    """
    # /dev/stdout is a link to a file where the shell redirects it to one.
    path = Path(os.path.realpath(path))
    # Hidden and without the suffix, so that what a killed program leaves is taken for no recording; shortened, because
    # the name itself may be as long as names can be (in bytes). Opened plainly, so that the umask counts.
    partial = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

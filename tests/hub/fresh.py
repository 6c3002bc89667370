"""Fresh Python processes that need not import torch again, which takes most of the time that a client takes to start.

They are forked from a server that has imported what knows nothing of a hub; what does reads its settings in each of
them. Nothing else may be imported here: it would be in all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "scipy.optimize",
        "torch",
        "torch._dynamo",
        "torch._meta_registrations",
        "torch.distributed.checkpoint",
        "torch.distributed.tensor",
    ]
)


def start(
    code: str, arguments: list[str], environment: dict[str, str], folder: Path
) -> tuple[BaseProcess, Path, Path]:
    """Start `python -c code arguments` in a folder; also the files that it prints to, outputs and errors.

    Args:
        code: of the program.
        arguments: its `sys.argv[1:]`.
        environment: all of its variables.
        folder: where it runs, and those files lie.
    """
    printed = Path(tempfile.mkdtemp(dir=folder))
    output, errors = printed / "output", printed / "errors"
    process = _SERVER.Process(target=_execute, args=(code, arguments, environment, folder, output, errors))
    process.start()
    return process, output, errors


def _execute(
    code: str, arguments: list[str], environment: dict[str, str], folder: Path, output: Path, errors: Path
) -> None:
    known = [name for name in sys.modules if name.partition(".")[0] in ("huggingface_hub", "transformers")]
    assert not known, f"{known} would not read the environment"
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path, stream in ((output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<client>", "exec"), {"__name__": "__main__"})

"""What several commands share."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

# What the commands that train have in common.
Recipe = Annotated[Path, typer.Argument(help="YAML recipe; see recipes/.")]
DataRoot = Annotated[
    Path, typer.Option(help="Folder that the recipe's paths of data and checkpoints are relative to.")
]
StartFrom = Annotated[str | None, typer.Option("--from", help="Checkpoint to fine-tune instead of a fresh model.")]
Resume = Annotated[bool, typer.Option(help="Continue from the newest checkpoint in the output folder.")]
OutputDir = Annotated[Path | None, typer.Option(help="Replaces the recipe's.")]
MaxSteps = Annotated[int | None, typer.Option(help="Replaces the recipe's.")]

STDIO = Path("-")
# Of files of codes.
SUFFIXES = (".codes", ".ecdc", ".lyra", ".dac")
BUNDLED = "bundled:codec"


def load_codec(name: str | None, revision: str | None = None):
    """The codec of `--codec` in eval mode, fused; the bundled one if none is named. Quietly."""
    import transformers

    import codec_lm_hf

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return codec_lm_hf.AutoCodecModel.from_pretrained(name or BUNDLED, revision=revision).eval().fuse()


def load_entropy_lm(name: str):
    """The entropy model of `--lm` in eval mode. Quietly.

    Raises:
        ValueError: it is a model of another kind.
    """
    import transformers

    import codec_lm_hf

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(name)
    if not isinstance(config, codec_lm_hf.EncodecEntropyLMConfig):
        raise ValueError(
            f"{name} is a {config.model_type} and no entropy model of EnCodec; make one by "
            "`codec-lm convert encodec_entropy_lm`."
        )
    return codec_lm_hf.EncodecEntropyLMModel.from_pretrained(name).eval()


def training_overrides(output_dir: Path | None, max_steps: int | None) -> dict[str, str | int]:
    """Fields of a recipe's training section that the command line replaces."""
    given = {"output_dir": str(output_dir) if output_dir else None, "max_steps": max_steps}
    return {name: value for name, value in given.items() if value is not None}


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path` only once it is complete; `-` is standard output.

    What is no regular file, a pipe or a device, is written to as it is.

    Raises:
        OSError: the folder does not exist or cannot be written to.
    """
    from ..processing.files import appearing

    if path == STDIO:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    with appearing(path) as file:
        yield file


@contextmanager
def input_file(path: Path) -> Iterator[BinaryIO]:
    """A seekable binary file; standard input (`-`) and pipes are spooled to disk.

    What is wrong with its content names it.

    Raises:
        ValueError: it is not there or cannot be opened.
    """
    from ..processing.audio import AudioFileError

    if path != STDIO:
        if not path.exists() or path.is_dir():
            raise ValueError(f"{path} is not a file.")
        try:
            source = path.open("rb")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
        try:
            with source as file, file if path.is_file() else _spooled(file) as seekable:
                yield seekable
        except AudioFileError:
            # It says which file it is about, perhaps the one that is written.
            raise
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return
    with _spooled(sys.stdin.buffer) as spool:
        yield spool


@contextmanager
def _spooled(stream: BinaryIO) -> Iterator[BinaryIO]:
    import shutil

    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(stream, spool)
        spool.seek(0)
        yield spool


def file_named(output: str) -> Path:
    """Where one file is to be written.

    Raises:
        IsADirectoryError: it ends with a slash; a `Path` no longer says so.
    """
    if output.endswith(("/", os.sep)):
        raise IsADirectoryError(f"cannot write {output}: it is a folder; name a file in it.")
    return Path(output)


def pairs(source: Path, output: str | None, found: list[Path], suffix: str) -> list[tuple[Path, Path]]:
    """What to read and where to write: one file, or every file found in a folder, keeping its layout.

    What comes from a pipe goes to standard output by default.

    Raises:
        FileNotFoundError: nothing to read.
        IsADirectoryError: one file, to be written to what ends with a slash.
        ValueError: two files of the folder would be written to one place, or a file over itself; or a folder to
            standard output.
    """
    if source.is_dir():
        if output == str(STDIO):
            raise ValueError(f"{source} is a folder, and standard output takes one file: name a folder with -o.")
        if not found:
            raise FileNotFoundError(f"{source} holds no file to work on.")
        target = Path(output or source)
        todo = [(path, target / path.relative_to(source).with_suffix(suffix)) for path in found]
        taken: dict[Path, Path] = {}
        for path, written in todo:
            if written in taken:
                raise ValueError(
                    f"{taken[written]} and {path} would both be written to {written}; rename one of them."
                )
            taken[written] = path
        return todo
    if source == STDIO or (source.exists() and not source.is_file()):
        return [(source, file_named(output) if output else STDIO)]
    target = file_named(output) if output else source.with_suffix(suffix)
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{source} would be replaced by what is made of it; write to another file (-o).")
    return [(source, target)]


def run_over(source: Path, todo: list[tuple[Path, Path]], work: Callable[[Path, BinaryIO, str], None]) -> None:
    """`work(path, file, suffix)` for each of `pairs(source, ...)`; `file` appears at its place once it is complete.

    Raises:
        ValueError: some files are not what was expected; of a folder, the others are done, and each is named.
    """
    from tqdm.auto import tqdm

    bad: list[str] = []
    for path, target in tqdm(todo, unit="file", disable=len(todo) < 2):
        if source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with output_file(target) as file:
                work(path, file, target.suffix)
        except (ValueError, OSError) as error:
            # Whatever else the system refuses, as on a full disk, it would refuse for the other files, too.
            if len(todo) == 1 or (isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG):
                raise
            bad.append(str(error))
    if bad:
        raise ValueError("\n  ".join([f"{len(bad)} of {len(todo)} files were left out:", *bad]))

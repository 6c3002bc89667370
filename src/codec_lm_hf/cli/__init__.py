"""`codec-lm`: one file a command, thin over the Python API. Heavy imports wait until a command runs."""

from __future__ import annotations

import typer

from .convert import convert
from .decode import decode
from .encode import encode
from .export_native import export_native
from .export_onnx import export_onnx
from .generate import generate
from .info import info
from .list import list_families
from .roundtrip import roundtrip
from .tokenize import tokenize
from .train_codec import train_codec

app = typer.Typer(
    name="codec-lm",
    help="Neural audio codecs: audio to codes, codes to audio.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("list")(list_families)
app.command("info")(info)
app.command("encode")(encode)
app.command("decode")(decode)
app.command("generate")(generate)
app.command("roundtrip")(roundtrip)
app.command("convert")(convert)
app.command("export-native")(export_native)
app.command("export-onnx")(export_onnx)
app.command("tokenize")(tokenize)
app.command("train-codec")(train_codec)


def main() -> None:
    """Entry point: what a user got wrong ends as one line on stderr and exit code 2, not as a traceback."""
    import sys

    try:
        app()
    except Exception as error:
        if not isinstance(error, _mistakes()):
            raise
        typer.secho(f"codec-lm: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2)


def _mistakes() -> tuple[type[Exception], ...]:
    """What the package and the libraries it reads files with raise about what they were given."""
    from huggingface_hub.errors import StrictDataclassError

    return ValueError, ImportError, OSError, StrictDataclassError

"""Converters from the original projects' checkpoints, and back into transformers' own layouts.

`convert(family, checkpoint, output)` and `export_native(source, output)` are the entries.
"""

from .engine import ConversionError, Converter, convert, export_native

__all__ = ["ConversionError", "Converter", "convert", "export_native"]

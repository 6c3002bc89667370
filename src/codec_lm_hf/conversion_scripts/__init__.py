"""Converters from the original projects' checkpoints. `convert(family, checkpoint, output)` is the entry."""

from .engine import ConversionError, Converter, convert

__all__ = ["ConversionError", "Converter", "convert"]

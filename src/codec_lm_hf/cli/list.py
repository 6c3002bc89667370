"""`codec-lm list`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..processing.tasks import Task
from ..registry import FAMILIES, Family


def list_families(
    markdown: Annotated[bool, typer.Option(help="Print the table of the README.")] = False,
    survey: Annotated[bool, typer.Option(help="Print the survey's tables of codecs, in Markdown.")] = False,
) -> None:
    """List the families and their named presets.

    Example: codec-lm list
    """
    if survey:
        from ..evaluation.survey import markdown_tables

        typer.echo(markdown_tables())
        return
    if markdown:
        typer.echo(markdown_table())
        return
    for row in FAMILIES:
        config_class = row.load("config")
        typer.echo(f"{row.name}  ({row.kind})  {row.paper}")
        typer.echo(f"    {config_class.__name__}, {row.load('model').__name__}: {row.summary}")
        for task in row.tasks:
            typer.echo(f"    task {task}: {Task[task].value}")
        for name in config_class.presets:
            typer.echo(f"    {name}: {_figures(row, name)}" if row.kind == "codec" else f"    {name}")


def _figures(row: Family, preset: str) -> str:
    config = row.load("config").from_preset(preset)
    rates = config.bandwidths
    rates = ", ".join(f"{rate:g}" for rate in rates) if len(rates) < 8 else f"{rates[0]:g} to {rates[-1]:g}"
    return (
        f"{config.sampling_rate} Hz, {config.audio_channels} ch, {config.frame_rate:g} frames/s, "
        f"{config.num_codebooks} x {config.codebook_size}, {rates} kbps"
    )


def markdown_table() -> str:
    """The families as a Markdown table, for the README."""
    lines = ["| family | classes | presets | checked | licence of the weights |", "|---|---|---|---|---|"]
    for row in FAMILIES:
        config_class = row.load("config")
        classes = f"`{config_class.__name__}`, `{row.load('model').__name__}`"
        presets = ", ".join(f"`{name}`" for name in config_class.presets)
        lines.append(f"| {row.title} | {classes} | {presets} | {row.summary} | {row.weights_license} |")
    return "\n".join(lines)

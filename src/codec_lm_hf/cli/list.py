"""`codec-lm list`."""

from __future__ import annotations

import typer


def list_families() -> None:
    """List the families and their named presets.

    Example: codec-lm list
    """
    from ..registry import FAMILIES

    for row in FAMILIES:
        config_class = row.load("config")
        typer.echo(f"{row.name}  ({row.kind})  {row.paper}")
        typer.echo(f"    {config_class.__name__}, {row.load('model').__name__}: {row.summary}")
        for name in config_class.presets:
            config = config_class(**config_class.presets[name])
            if row.kind == "codec":
                rates = ", ".join(f"{rate:g}" for rate in config.bandwidths)
                typer.echo(
                    f"    {name}: {config.sampling_rate} Hz, {config.audio_channels} ch, {config.frame_rate:g} frames/s, "
                    f"{config.num_codebooks} x {config.codebook_size}, {rates} kbps"
                )
            else:
                typer.echo(f"    {name}")

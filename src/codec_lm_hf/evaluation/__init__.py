"""Metrics, judges, and the codec benchmark."""

from __future__ import annotations

from pathlib import Path


def module(name: str) -> str:
    """Path of a metric as a module of the `evaluate` library (extra `evaluate`): `evaluate.load(module("si_sdr"))`.

    Args:
        name: `"si_sdr"`, `"log_mel_distance"`, `"pesq_wb"` or `"stoi"`.

    Raises:
        ValueError: there is no such metric.
    """
    root = Path(__file__).parent / "modules"
    names = sorted(path.stem for path in root.glob("[!_]*.py"))
    if name not in names:
        raise ValueError(f"no metric {name!r}; there is: {', '.join(names)}.")
    return str(root / f"{name}.py")

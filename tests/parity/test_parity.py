"""Replays the original implementations: every case of a registered system, every tensor of a case."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from codec_lm_hf.conversion_scripts.engine import check_complete
from codec_lm_hf.registry import FAMILIES
from tests.parity.harness import REGISTERED, Case, find_cases, layout_root

CASES = find_cases()


def test_there_are_cases():
    assert {case.parent.name for case in CASES} & set(REGISTERED)


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_case(folder, tmp_path):
    case = Case(folder) if folder.parent.name in REGISTERED else None
    if case is None:
        pytest.skip(f"pending: {folder.parent.name} is not in the registry yet")
    importlib.import_module(f"tests.parity.{case.system}_checks").check(case, tmp_path)
    case.finish()


LAYOUTS = [(row, layout) for row in FAMILIES for layout in row.layouts]


def test_every_layout_of_a_registered_system_has_a_converter():
    found = {path for system in REGISTERED for path in (layout_root() / system).glob("*.json")}
    assert found == {path for _, layout in LAYOUTS for path in tables_of(layout)}


def tables_of(layout: str) -> list[Path]:
    """Files of `system/variant`, or of `system/variant+variant` for a model whose checkpoint is several files."""
    system, variants = layout.split("/")
    return [layout_root() / system / f"{variant}.json" for variant in variants.split("+")]


@pytest.mark.parametrize(("row", "layout"), LAYOUTS, ids=lambda value: value if isinstance(value, str) else value.name)
def test_layout_converts_with_nothing_missing_or_left_over(row, layout):
    """Each published checkpoint's keys and shapes, through the family's rules, are exactly our model's."""
    tables = {path.stem: json.loads(path.read_text()) for path in tables_of(layout)}
    converter = importlib.import_module(f"codec_lm_hf.conversion_scripts.{row.converter}").CONVERTER
    entries = [entry for table in tables.values() for entry in table["tensors"].items()]
    state = {key: torch.empty(shape[:-1], device="meta") for key, shape in entries}
    assert len(state) == len(entries)
    configs = {name: table["config"] for name, table in tables.items()}
    config = converter.config_from_original(configs if len(configs) > 1 else next(iter(configs.values())))
    with torch.device("meta"):
        expected = converter.model_class(config).state_dict()
    renamed = converter.rename(state, config)
    check_complete({k: v.shape for k, v in expected.items()}, {k: v.shape for k, v in renamed.items()})

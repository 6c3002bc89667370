"""The rooms of the package (CONTRIBUTING.md): each imports only what stands below it, and no family knows another."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import codec_lm_hf
from codec_lm_hf.registry import FAMILIES

ROOT = Path(codec_lm_hf.__file__).parent
# From the ground up; a floor's rooms do not know each other. `""` is the package itself: its public names.
FLOORS = [
    {"registry", "pretrained"},
    {"hub"},
    {"configuration"},
    {"modeling"},
    {"processing"},
    {"conversion_scripts", "bitstream"},
    {"evaluation"},
    {"training"},
    {""},
    {"demo"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# module -> families that it builds on because its paper does.
BUILDS_ON: dict[str, set[str]] = {
    # The released AudioGen is "a re-implementation with the MusicGen code" (its model card).
    "configuration.audiogen": {"musicgen"},
    "modeling.audiogen": {"musicgen"},
    "conversion_scripts.audiogen": {"musicgen"},
}
PARTS = ("modeling.layers", "modeling.quantization", "modeling.discriminators")


def module_name(path: Path) -> str:
    """Dotted, below the package: `modeling.layers.conv`; a folder's `__init__` has the folder's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports anywhere in it, names from packages included."""
    package = [ROOT.name, *path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, node.module] if node.module else base)
            names = {f"{base}.{alias.name}" for alias in node.names}
            modules = {name for name in names if is_module(name)}
            found |= modules if modules == names else modules | {base}
    return found


def is_module(name: str) -> bool:
    package, _, rest = name.partition(".")
    path = ROOT.joinpath(*rest.split("."))
    return package == ROOT.name and (path.with_suffix(".py").is_file() or path.is_dir())


def ours(names: set[str]) -> set[str]:
    """Of absolute names, those of this package, below it."""
    return {name.partition(".")[2] for name in names if name.split(".")[0] == ROOT.name}


MODULES = {module_name(path): imports(path) for path in ROOT.rglob("*.py") if "pretrained" not in path.parts}
# Every file of a family -> the families whose rows name it.
FAMILY_FILES: dict[str, set[str]] = {}
for row in FAMILIES:
    files = [row.config.split(":")[0], row.model.split(":")[0]]
    for file in [*files, f"conversion_scripts.{row.converter}"] if row.converter else files:
        FAMILY_FILES.setdefault(file, set()).add(row.name)


def test_the_reader_of_imports_sees_them(tmp_path):
    """Else all that follows would pass on nothing."""
    assert "modeling.codec_base" in ours(MODULES["modeling.encodec"])
    assert "hub" in ours(MODULES["configuration.presets"])
    assert {"processing.audio", "cli.common"} <= ours(MODULES["cli.encode"]), "imports within functions"
    assert set(FAMILY_FILES) <= set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_what_stands_below_it(module):
    room = module.split(".")[0]
    assert room in FLOOR, f"{room} is a new room: give it a floor"
    for name in ours(MODULES[module]):
        other = name.split(".")[0]
        assert other == room or FLOOR[other] < FLOOR[room], f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(FAMILY_FILES))
def test_no_family_knows_another(module):
    allowed = FAMILY_FILES[module] | BUILDS_ON.get(module, set())
    for name in ours(MODULES[module]) & FAMILY_FILES.keys():
        assert FAMILY_FILES[name] & allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith(PARTS)))
def test_parts_know_no_family(module):
    """But a discriminator, which is a model itself, its own configuration."""
    own = {"configuration.discriminators"} if module.startswith("modeling.discriminators") else set()
    mine = {name for name in FAMILY_FILES if name.startswith("modeling.discriminators")}
    known = ours(MODULES[module]) & FAMILY_FILES.keys() - own - mine
    assert not known
    assert "modeling.codec_base" not in ours(MODULES[module])


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.split(".")[0] in ("configuration", "hub")))
def test_configurations_do_without_torch(module):
    assert not {name for name in MODULES[module] if name.split(".")[0] in ("torch", "torchaudio", "numpy")}


def test_the_registry_imports_the_standard_library_only():
    assert {name.split(".")[0] for name in MODULES["registry"]} <= sys.stdlib_module_names


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_a_family_bears_one_name_in_every_room(row):
    """Its file names are the same in every room, and models name themselves after it."""
    config, model = row.config.split(":")[0], row.model.split(":")[0]
    assert config.split(".")[-1] == model.split(".")[-1]
    assert row.converter in (None, row.name)

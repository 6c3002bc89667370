"""Cases of runs of the original implementations: where they are, and how one is compared, tensor by tensor."""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from codec_lm_hf.modeling.discriminators import CodecDiscriminator, DiscriminatorOutput
from codec_lm_hf.registry import FAMILIES

PROJECT = Path(__file__).parents[2]
REGISTERED = sorted({system for row in FAMILIES for system in row.parity})


def roots() -> list[Path]:
    """Folders of cases: `CODEC_LM_PARITY_ROOT` (several, separated by `:`), or those of this project and beside it."""
    given = os.environ.get("CODEC_LM_PARITY_ROOT")
    if given:
        return [Path(part) for part in given.split(":") if part]
    return [path for path in (PROJECT / "tests/parity/cases", PROJECT.parent / "shared/parity") if path.is_dir()]


def layout_root() -> Path:
    """Folder of the key and shape tables of published checkpoints: beside the project, or those in it."""
    beside = PROJECT.parent / "shared/layouts"
    return beside if beside.is_dir() else PROJECT / "tests/parity/layouts"


def find_cases() -> list[Path]:
    """Folders of all cases; where two roots hold a case of the same name, that of the first."""
    found: dict[tuple[str, str], Path] = {}
    for root in roots():
        for path in root.glob("*/*/case.json"):
            found.setdefault((path.parts[-3], path.parts[-2]), path.parent)
    return [found[key] for key in sorted(found)]


class Case:
    """One case: its tensors, and which of them have been compared."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.system = folder.parent.name
        self.name = folder.name
        # A case of texts alone has no tensors.
        self.tensors = load_file(folder / "io.safetensors") if (folder / "io.safetensors").exists() else {}
        self._compared: set[str] = set()

    @cached_property
    def meta(self) -> dict:
        return json.loads((self.folder / "case.json").read_text())

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.tensors if name.startswith(prefix)]

    def input(self, name: str) -> Tensor:
        """A tensor that the test feeds in, and therefore counts as compared."""
        self._compared.add(name)
        return self.tensors[name]

    def same(self, name: str, value: Tensor, atol: float = 0.0, rtol: float = 0.0) -> None:
        """`value` equals the tensor `name`, if that was recorded: exactly, or floats within the tolerances."""
        if name not in self.tensors:
            return
        self._compared.add(name)
        expected = self.tensors[name]
        value = torch.as_tensor(value)
        assert tuple(value.shape) == tuple(expected.shape), (
            f"{name}: shape {tuple(value.shape)}, not {tuple(expected.shape)}"
        )
        if expected.is_floating_point():
            torch.testing.assert_close(
                value.to(expected.dtype), expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}"
            )
        else:
            different = int((value.long() != expected.long()).sum())
            assert not different, f"{name}: {different} of {expected.numel()} entries differ"

    def same_where_recorded(self, values: dict[str, Tensor], atol: float = 0.0, rtol: float = 0.0) -> None:
        """`same` for those of `values` that the case holds: a case need not record everything that can be computed."""
        for name, value in values.items():
            if name in self.tensors:
                self.same(name, value, atol, rtol)

    def finish(self) -> None:
        """Every tensor of the case must have been compared."""
        left = sorted(set(self.tensors) - self._compared)
        assert not left, f"{self.system}/{self.name}: tensors that no check knows: {left}"


def parts_of(discriminator: CodecDiscriminator, output: DiscriminatorOutput, kind: str) -> DiscriminatorOutput:
    """What the parts of one kind say."""
    places = [place for place, part in enumerate(discriminator.config.parts) if part["kind"] == kind]
    return DiscriminatorOutput(
        logits=tuple(output.logits[place] for place in places),
        feature_maps=tuple(output.feature_maps[place] for place in places),
    )


def maps_with_logits(output: DiscriminatorOutput) -> list[tuple[Tensor, ...]]:
    """Each part's feature maps with its logits as the last of them, as some originals count them."""
    return [(*maps, logits) for maps, logits in zip(output.feature_maps, output.logits, strict=True)]

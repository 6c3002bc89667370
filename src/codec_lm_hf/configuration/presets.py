"""Configurations of published variants by name."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedConfig

from ..hub import RemoteStubMixin


class PresetConfig(RemoteStubMixin, PreTrainedConfig):
    """Base of every configuration. `presets` names the published variants and the fields in which they differ."""

    presets: ClassVar[dict[str, dict]] = {}

    @classmethod
    def from_preset(cls, name: str, **overrides) -> PresetConfig:
        """Build the configuration of a published variant.

        Args:
            name: a key of `presets`.
            **overrides: fields that replace the preset's.

        Raises:
            ValueError: the name is not a preset of this family.
        """
        if name not in cls.presets:
            raise ValueError(f"{cls.__name__} has no preset {name!r}; choose one of {sorted(cls.presets)}.")
        return cls(**{**cls.presets[name], **overrides})

"""Configurations of published variants by name."""

from __future__ import annotations

from typing import ClassVar

from transformers import PreTrainedConfig

from ..hub import RemoteStubMixin
from ..registry import family_of


class PresetConfig(RemoteStubMixin, PreTrainedConfig):
    """Base of every configuration. `presets` names the published variants and the fields in which they differ.

    A family that reads checkpoints of transformers' own models names their `native_types`, and makes its own fields of
    their `config.json` in `_from_native`.
    """

    presets: ClassVar[dict[str, dict]] = {}
    native_types: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        """As in transformers, but in our fields already, or transformers would warn of `native_types`.

        Raises:
            OSError: there is none, or it is no JSON.
            ValueError: it is another family's, which has no weights for this one.
        """
        config_dict, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        config_dict = cls._in_our_fields(config_dict)
        row = family_of(config_dict.get("model_type"))
        if row is not None:
            theirs = row.load("config")
            # What is derived from another class may read its checkpoints; transformers says if the types differ.
            if not (issubclass(cls, theirs) or issubclass(theirs, cls)):
                raise ValueError(
                    f"{pretrained_model_name_or_path} has model_type {config_dict['model_type']!r}, which is not for "
                    f"{cls.__name__}: load it as {row.load('model').__name__}, or by an Auto class."
                )
        return config_dict, unused

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As in transformers; also reads the `config.json` of `native_types`."""
        return super().from_dict(cls._in_our_fields(config_dict), **kwargs)

    @classmethod
    def _in_our_fields(cls, config_dict: dict) -> dict:
        native = config_dict.get("model_type") in cls.native_types
        return cls._from_native(config_dict) if native else config_dict

    @staticmethod
    def _from_native(config_dict: dict) -> dict:
        """Our fields of the configuration of a transformers model of `native_types`, without its `model_type`."""
        raise NotImplementedError("a configuration with native_types must define _from_native.")

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

"""The figures every codec language model states by its configuration alone."""

from __future__ import annotations

import copy

from .presets import PresetConfig


class CodecLMConfig(PresetConfig):
    """Base of every codec language model's configuration.

    A family defines its own fields; these are readable on all of them, and any codec that has them fits:

    | name | meaning |
    |---|---|
    | `num_codebooks` | codes per frame that the model reads and writes |
    | `codebook_size` | entries per codebook |
    | `vocab_size` | text symbols, where the model has an embedding for them |

    `presets` names the published variants: `ConfigClass.from_preset("name")`.
    """

    def resized(self, num_codebooks: int, codebook_size: int) -> CodecLMConfig:
        """The same configuration for another codec.

        Raises:
            StrictDataclassError: it cannot be.
        """
        config = copy.deepcopy(self)
        for name, value in self._fields_for_codebooks(num_codebooks, codebook_size).items():
            setattr(config, name, value)
        config.validate()
        return config

    def _fields_for_codebooks(self, num_codebooks: int, codebook_size: int) -> dict:
        """The fields that follow from the codec's sizes. A family adds its own."""
        return {"num_codebooks": num_codebooks, "codebook_size": codebook_size}

    def _check_at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def _check_choice(self, name: str, choices: tuple) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}.")

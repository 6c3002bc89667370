"""One entry for codecs of this package and for the native checkpoints that some of them can read."""

from __future__ import annotations

import os

from transformers import PreTrainedConfig

from ..pretrained import is_bundled, locate
from ..registry import FAMILIES, family
from .codec_base import CodecPreTrainedModel

# model_type of transformers' own codecs -> the family here that reads their checkpoints.
NATIVE = {"encodec": "encodec", "dac": "dac"}


class AutoCodecModel:
    """Loads a codec as *our* class, also from checkpoints of transformers' own codecs.

    `AutoModel` gives transformers' `EncodecModel` for `facebook/encodec_24khz`; this gives `EncodecCodecModel`, which
    trains, streams and does not mind padding.
    """

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike, **kwargs) -> CodecPreTrainedModel:
        """Load a codec from the Hub or a directory.

        Args:
            name_or_path: repository id or directory; `"bundled:codec"` for the one that comes with the package, which
                it is called by in files that go to other machines.
            **kwargs: as in `AutoModel.from_pretrained`.

        Raises:
            ValueError: the checkpoint is not a codec that this package knows.
        """
        hub = {name: kwargs[name] for name in ("revision", "token", "cache_dir", "subfolder") if name in kwargs}
        place = locate(name_or_path)
        config_dict, _ = PreTrainedConfig.get_config_dict(place, **hub)
        model_type = config_dict.get("model_type")
        known = {row.load("config").model_type: row for row in FAMILIES if row.kind == "codec"}
        known |= {native: family(name) for native, name in NATIVE.items()}
        if model_type not in known:
            raise ValueError(
                f"{name_or_path} has model_type {model_type!r}, which is no codec of this package; known: "
                f"{', '.join(sorted(known))}."
            )
        loaded = known[model_type].load("model").from_pretrained(place, **kwargs)
        if is_bundled(name_or_path):
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.config.name_or_path = model.name_or_path = name_or_path
        return loaded

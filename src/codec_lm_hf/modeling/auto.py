"""Which family reads a checkpoint, ours or a native one of transformers; and one entry for all codecs."""

from __future__ import annotations

import os

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, logging

from ..pretrained import is_bundled, locate
from ..registry import FAMILIES, Family, family_of
from .codec_base import CodecPreTrainedModel

# model_type of transformers' own language models -> their part that is a codec.
CODEC_WITHIN = {"musicgen": "audio_encoder", "musicgen_melody": "audio_encoder"}


def family_at(name_or_path: str | os.PathLike, **hub) -> Family | None:
    """The family that reads a checkpoint, ours or one of transformers' own; `None` if it is of none.

    Args:
        name_or_path: repository id or directory.
        **hub: `revision`, `token`, `cache_dir` and `subfolder`, as in `from_pretrained`.

    Raises:
        OSError: there is no checkpoint.
    """
    return family_of(_config_at(name_or_path, **hub).get("model_type"))


def _config_at(name_or_path: str | os.PathLike, **hub) -> dict:
    config_dict, _ = PreTrainedConfig.get_config_dict(name_or_path, **hub)
    if not config_dict:
        raise OSError(f"{name_or_path} holds no {CONFIG_NAME}: give a directory that save_pretrained wrote.")
    return config_dict


class AutoCodecModel:
    """Loads a codec as *our* class, also from checkpoints of transformers' own codecs.

    `AutoModel` gives transformers' `EncodecModel` for `facebook/encodec_24khz`; this gives `EncodecCodecModel`, which
    trains, streams and does not mind padding.
    """

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike, **kwargs) -> CodecPreTrainedModel:
        """Load a codec from the Hub or a directory.

        Args:
            name_or_path: repository id or directory, also of transformers' own language models that hold a codec
                (`facebook/musicgen-small`); `"bundled:codec"` for the one that comes with the package, which it is
                called by in files that go to other machines.
            **kwargs: as in `AutoModel.from_pretrained`.

        Raises:
            OSError: there is no checkpoint.
            ValueError: it is not a codec that this package knows.
        """
        hub = {name: kwargs[name] for name in ("revision", "token", "cache_dir", "subfolder") if name in kwargs}
        place = locate(name_or_path)
        config_dict = _config_at(place, **hub)
        part = CODEC_WITHIN.get(config_dict.get("model_type"))
        if part is not None:
            config_dict = config_dict[part]
        model_type = config_dict.get("model_type")
        row = family_of(model_type)
        if row is None or row.kind != "codec":
            codecs = (row for row in FAMILIES if row.kind == "codec")
            known = sorted(name for row in codecs for name in (row.load("config").model_type, *row.native))
            raise ValueError(
                f"{name_or_path} has model_type {model_type!r}, which is no codec of this package; known: "
                f"{', '.join(known)}."
            )
        if part is not None:
            return load_part(row.load("model"), place, part, row.load("config").from_dict(config_dict), **kwargs)
        loaded = row.load("model").from_pretrained(place, **kwargs)
        if is_bundled(name_or_path):
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.config.name_or_path = model.name_or_path = name_or_path
        return loaded


def load_part(
    model_class: type[PreTrainedModel], name_or_path: str | os.PathLike, part: str, config: PreTrainedConfig, **kwargs
) -> PreTrainedModel:
    """A model whose weights are among those of a larger one.

    Args:
        model_class: of the part.
        name_or_path: repository id or directory of the larger model.
        part: what the names of its weights begin with there.
        config: of the part.
        **kwargs: as in `from_pretrained`.

    Raises:
        ValueError: weights of the part are not there.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # of all the weights of the other parts
    try:
        model, info = model_class.from_pretrained(
            name_or_path, config=config, key_mapping={rf"^{part}\.": ""}, output_loading_info=True, **kwargs
        )
    finally:
        logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        raise ValueError(f"{name_or_path} has no weights {part}.{sorted(info['missing_keys'])[0]}; is it complete?")
    # Or transformers would give weights their old names when it saves the part, which is a model of its own now.
    model._weight_conversions = None
    return model

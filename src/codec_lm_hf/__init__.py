"""Neural audio codecs and codec language models as transformers config / model / processor triples.

Importing this package registers every family with transformers' Auto classes.
"""

from __future__ import annotations

import importlib
from typing import Any

from .pretrained import bundled
from .registry import FAMILIES

__version__ = "0.1.0"

_PUBLIC = {
    "AudioStreamer": "processing.audio_streamer",
    "AutoCodecModel": "modeling.auto",
    "CodecDecoderOutput": "modeling.codec_base",
    "CodecEncoderOutput": "modeling.codec_base",
    "CodecFeatureExtractor": "processing.feature_extraction",
    "CodecOutput": "modeling.codec_base",
    "CodecPreTrainedModel": "modeling.codec_base",
    "CodecStream": "modeling.codec_stream",
    "FAMILIES": "registry",
    "Task": "processing.tasks",
    "convert": "conversion_scripts",
    "export_native": "conversion_scripts",
    "export_onnx": "conversion_scripts.onnx",
}
for _row in FAMILIES:
    for _role in filter(None, (_row.config, _row.model, _row.processor)):
        _module, _name = _role.split(":")
        _PUBLIC[_name] = _module

__all__ = ["bundled", "register", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__


def register() -> None:
    """Register every family with transformers' Auto classes. Done on import; doing it again changes nothing.

    A model_type that transformers itself has come to own is left to it: our class stays reachable by its own name.
    """
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForAudioTokenization,
        AutoModelForTextToWaveform,
        AutoProcessor,
        AutoTokenizer,
    )
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    for row in FAMILIES:
        config, model = row.load("config"), row.load("model")
        if config.model_type in CONFIG_MAPPING_NAMES:
            continue
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        if row.kind == "codec":
            AutoModelForAudioTokenization.register(config, model, exist_ok=True)
        if row.kind == "lm":
            AutoModelForTextToWaveform.register(config, model, exist_ok=True)
        if row.processor is not None:
            processor = row.load("processor")
            if row.kind == "codec":
                AutoFeatureExtractor.register(config, processor, exist_ok=True)
            if row.kind == "lm":
                # A text-to-audio pipeline loads no model without a tokenizer; here a processor is what reads texts.
                AutoTokenizer.register(config, processor, exist_ok=True)
            AutoProcessor.register(config, processor, exist_ok=True)


register()

"""The common tests of transformers over our tiny models, and over its own EnCodec and MusicGen for comparison.

`run.py` runs it, after fetching what it imports; a plain `pytest` does not collect it. A codec's processor is its
feature extractor, so transformers' processor tests are for those of language models.
"""

from __future__ import annotations

import json
import unittest
from collections.abc import Callable

import numpy as np
import torch
from transformers import (
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    MusicgenProcessor,
    ProcessorMixin,
)
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_processing_common import ProcessorTesterMixin
from transformers_tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from codec_lm_hf import CodecFeatureExtractor, MusicGenLMProcessor, ValleProcessor
from tests.common.tiny import TINY
from tests.common.tiny_lm import TINY_LM, tiny_codec
from tests.common.tiny_text import tiny_tokenizer

NATIVE_FIELDS = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_dim": 16,
    "codebook_size": 64,
    "target_bandwidths": [0.45, 0.9, 1.8],
}


NATIVE_LM_FIELDS = {
    "vocab_size": 20,
    "num_codebooks": 4,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 100,
    "pad_token_id": 20,
    "bos_token_id": 20,
    "tie_word_embeddings": False,
}
# Of the language models: rows, and frames of each.
ROWS, FRAMES = 2, 8


class ModelTester:
    """What `ModelTesterMixin` asks for: a configuration, a batch, and what comes out of it.

    Args:
        config_class, fields: of the model.
        inputs: configuration to batch.
        steps: of the hidden states, where there are such.
    """

    is_training = True
    batch_size = ROWS

    def __init__(
        self, config_class: type, fields: dict, inputs: Callable[..., dict], steps: int | None = None
    ) -> None:
        self.config_class, self.fields, self.inputs = config_class, fields, inputs
        if steps is not None:
            self.seq_length = steps
            for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
                setattr(self, name, fields[name])

    def get_config(self):
        return self.config_class(**self.fields)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        return config, self.inputs(config)

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


def codec_inputs(config) -> dict:
    shape = (ROWS, config.audio_channels, 2000)
    return {"input_values": 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))}


def native_lm_inputs(config) -> dict:
    generator = torch.Generator().manual_seed(0)
    # It takes the codebooks of all rows one after the other.
    codes = torch.randint(config.vocab_size, (ROWS * config.num_codebooks, FRAMES), generator=generator)
    states = torch.randn(ROWS, FRAMES, config.hidden_size, generator=generator)
    return {"input_ids": codes, "encoder_hidden_states": states}


class FeatureTester:
    """What `SequenceFeatureExtractionTestMixin` asks for: settings, and recordings of growing length."""

    batch_size, min_seq_length, max_seq_length, seq_length_diff = 5, 400, 900, 100

    def __init__(self, channels: int) -> None:
        self.feature_size = channels

    def prepare_feat_extract_dict(self) -> dict:
        return {"feature_size": self.feature_size, "sampling_rate": 16000, "padding_value": 0.0}

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list:
        step = 0 if equal_length else self.seq_length_diff
        lengths = [self.min_seq_length + row * step for row in range(self.batch_size)]
        shape = () if self.feature_size == 1 else (self.feature_size,)
        recordings = [np.random.default_rng(0).standard_normal((length, *shape)) for length in lengths]
        return recordings if numpify else [recording.tolist() for recording in recordings]


def model_tests(
    config_class: type, model_class: type, fields: dict, inputs: Callable[..., dict], steps: int | None = None
) -> type:
    """A test case of a model: `ModelTesterMixin` and `ConfigTester`; the arguments are those of `ModelTester`."""

    class TestModel(ModelTesterMixin, unittest.TestCase):
        all_model_classes = (model_class,)
        has_attentions = steps is not None
        test_resize_embeddings = False
        # They skip this one for models without a year of copyright in their source.
        test_can_init_all_missing_weights_before_2023 = True

        def setUp(self) -> None:
            self.model_tester = ModelTester(config_class, fields, inputs, steps)

        def test_config(self) -> None:
            options = {"has_text_modality": False, "common_properties": []}
            tester = ConfigTester(self, config_class, **options, **json.loads(json.dumps(fields)))
            tester.run_common_tests()

    return TestModel


def feature_tests(extractor_class: type, channels: int) -> type:
    """A test case of a feature extractor."""

    class TestFeatures(SequenceFeatureExtractionTestMixin, unittest.TestCase):
        feature_extraction_class = extractor_class

        def setUp(self) -> None:
            self.feat_extract_tester = FeatureTester(channels)

    return TestFeatures


def processor_tests(make: Callable[..., ProcessorMixin], **fields) -> type:
    """A test case of a processor, which `make` makes of `fields`."""

    class TestProcessor(ProcessorTesterMixin, unittest.TestCase):
        processor_class = type(make(**fields))

        @classmethod
        def _setup_from_components(cls):
            return make(**fields)

        @staticmethod
        def prepare_processor_dict() -> dict:
            return fields

    return TestProcessor


# One class each, named `<kind>_<whose>`: `run.py` compares it with `<kind>_native`.
Model_native = model_tests(EncodecConfig, EncodecModel, NATIVE_FIELDS, codec_inputs)
for _name, _case in TINY.items():
    globals()[f"Model_{_name}"] = model_tests(type(_case.config()), _case.model_class, _case.fields, codec_inputs)
LM_native = model_tests(MusicgenDecoderConfig, MusicgenForCausalLM, NATIVE_LM_FIELDS, native_lm_inputs, FRAMES)


def _lm_tests(case) -> type:
    def inputs(config) -> dict:
        return case.inputs(config, [FRAMES] * ROWS)

    steps = case.model()(**inputs(case.config()), output_hidden_states=True).hidden_states[0].shape[1]
    return model_tests(type(case.config()), case.model_class, case.fields, inputs, steps)


for _name, _case in TINY_LM.items():
    globals()[f"LM_{_name}"] = _lm_tests(_case)
Mono_native, Mono_ours = (feature_tests(each, 1) for each in (EncodecFeatureExtractor, CodecFeatureExtractor))
Stereo_native, Stereo_ours = (feature_tests(each, 2) for each in (EncodecFeatureExtractor, CodecFeatureExtractor))
Processor_native = processor_tests(lambda: MusicgenProcessor(EncodecFeatureExtractor(), tiny_tokenizer()))


def musicgen_processor(**fields) -> MusicGenLMProcessor:
    processor = MusicGenLMProcessor(**fields)
    processor.tokenizer, processor.codec = tiny_tokenizer(), tiny_codec(4, 20)
    return processor


Processor_musicgen = processor_tests(musicgen_processor, num_codebooks=4, codebook_size=20, sampling_rate=800)
# What the common tests say.
_symbols = ValleProcessor.symbols_of(["lower newer upper older longer string"])
Processor_valle = processor_tests(ValleProcessor, symbols=_symbols, num_codebooks=3, codebook_size=20)

"""The common tests of transformers over our tiny codecs, and over its own tiny EnCodec for comparison.

`run.py` runs it, after fetching what it imports; a plain `pytest` does not collect it. transformers' processor tests
have no place yet: they are for a `ProcessorMixin`, and a codec's processor is its feature extractor.
"""

from __future__ import annotations

import json
import unittest

import numpy as np
import torch
from transformers import EncodecConfig, EncodecFeatureExtractor, EncodecModel
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from codec_lm_hf import CodecFeatureExtractor
from tests.common.tiny import TINY

NATIVE_FIELDS = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_dim": 16,
    "codebook_size": 64,
    "target_bandwidths": [0.45, 0.9, 1.8],
}


class ModelTester:
    """What `ModelTesterMixin` asks for: a configuration and a batch."""

    is_training = True
    batch_size = 2

    def __init__(self, config_class: type, fields: dict) -> None:
        self.config_class, self.fields = config_class, fields

    def get_config(self):
        return self.config_class(**self.fields)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        shape = (self.batch_size, config.audio_channels, 2000)
        return config, {"input_values": 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))}

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


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


def model_tests(config_class: type, model_class: type, fields: dict) -> type:
    """A test case of a codec: `ModelTesterMixin` and `ConfigTester`."""

    class TestModel(ModelTesterMixin, unittest.TestCase):
        all_model_classes = (model_class,)
        has_attentions = False
        test_resize_embeddings = False
        # They skip this one for models without a year of copyright in their source.
        test_can_init_all_missing_weights_before_2023 = True

        def setUp(self) -> None:
            self.model_tester = ModelTester(config_class, fields)

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


# One class each, named `<kind>_<whose>`: `run.py` compares it with `<kind>_native`.
Model_native = model_tests(EncodecConfig, EncodecModel, NATIVE_FIELDS)
for _name, _case in TINY.items():
    globals()[f"Model_{_name}"] = model_tests(type(_case.config()), _case.model_class, _case.fields)
Mono_native, Mono_ours = (feature_tests(each, 1) for each in (EncodecFeatureExtractor, CodecFeatureExtractor))
Stereo_native, Stereo_ours = (feature_tests(each, 2) for each in (EncodecFeatureExtractor, CodecFeatureExtractor))

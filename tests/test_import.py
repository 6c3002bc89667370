"""What `import codec_lm_hf` costs and does, each time in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from transformers import AutoConfig, AutoModel, AutoModelForAudioTokenization

import codec_lm_hf
from codec_lm_hf.registry import FAMILIES
from tests.common.tiny import TINY

# A tenth of what importing transformers' own pieces takes: nobody who loads a model notices. Registration needs class
# objects, so it imports every family; that stays cheap as long as nothing heavy stands at the top of their modules.
BUDGET_SECONDS = 0.5
HEAVY = ["soundfile", "soxr", "datasets", "gradio", "matplotlib", "scipy", "librosa", "accelerate", "pandas"]

MEASURE = """
    import sys, time
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization, AutoProcessor
    from transformers import SequenceFeatureExtractor
    from transformers.modeling_utils import PreTrainedAudioTokenizerBase
    before, started = set(sys.modules), time.process_time()
    import codec_lm_hf
    print(json.dumps([time.process_time() - started, sorted(set(sys.modules) - before)]))
"""


def run(code: str, *arguments: object):
    """What code prints last, read as JSON."""
    code = "import json, sys\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_it_adds_little_over_transformers_and_nothing_heavy():
    """The best of up to three, in processor time: tests share their machine."""
    for _ in range(3):
        seconds, names = run(MEASURE)
        if seconds < BUDGET_SECONDS:
            break
    assert seconds < BUDGET_SECONDS
    loaded = {name.split(".")[0] for name in names}
    assert "codec_lm_hf" in loaded and not loaded & set(HEAVY)


def test_public_names_are_there_and_unknown_ones_are_not():
    assert {"AutoCodecModel", "EncodecCodecModel", "bundled", "convert"} <= set(dir(codec_lm_hf))
    for name in codec_lm_hf.__all__:
        assert getattr(codec_lm_hf, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'EncodecModel'"):
        codec_lm_hf.EncodecModel  # noqa: B018


def test_every_family_is_registered_under_its_auto_classes():
    for row in FAMILIES:
        config = row.load("config")()
        assert type(AutoConfig.for_model(config.model_type)) is type(config)
        autos = [AutoModel, AutoModelForAudioTokenization] if row.kind == "codec" else [AutoModel]
        for auto in autos:
            assert auto._model_mapping[type(config)] is row.load("model")


@pytest.mark.parametrize(
    ("written", "reader"),
    [
        ("dac_codec", "EncodecCodecModel"),
        ("dac", "EncodecCodecModel"),
        ("dac_codec", "ValleForConditionalGeneration"),
        ("valle_codec_lm", "MusicGenLMForConditionalGeneration"),
        ("valle_codec_lm", "CodecDiscriminator"),
    ],
)
def test_a_checkpoint_of_another_family_is_refused(written, reader, tmp_path):
    """As all of its weights would be random."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": written, "hidden_size": 32}))
    model_class = getattr(codec_lm_hf, reader)
    with pytest.raises(ValueError, match=f"has model_type '{written}', which is not for .*: load it as (Dac|Valle)"):
        model_class.from_pretrained(tmp_path)


def test_a_class_made_of_another_reads_its_checkpoints(tmp_path):
    config_class, model_class = type(TINY["encodec"].config()), TINY["encodec"].model_class
    TINY["encodec"].model().save_pretrained(tmp_path)
    own_config = type("OwnConfig", (config_class,), {"model_type": "own_codec"})
    own_model = type("OwnModel", (model_class,), {"config_class": own_config})
    loaded = own_model.from_pretrained(tmp_path)
    assert type(loaded.config) is own_config and loaded.config.num_filters == TINY["encodec"].config().num_filters


def test_a_directory_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(OSError, match="holds no config.json: give a directory that save_pretrained wrote"):
        codec_lm_hf.AutoCodecModel.from_pretrained(tmp_path)


def test_registering_again_changes_nothing():
    def tables():
        autos = (AutoModel, AutoModelForAudioTokenization)
        return [dict(auto._model_mapping._extra_content) for auto in autos]

    before = tables()
    codec_lm_hf.register()
    codec_lm_hf.register()
    assert tables() == before


def test_no_name_of_ours_is_taken_by_transformers():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    native = {*CONFIG_MAPPING_NAMES.values(), *MODEL_MAPPING_NAMES.values()}
    for row in FAMILIES:
        assert row.load("config").model_type not in CONFIG_MAPPING_NAMES
        assert not {row.load("config").__name__, row.load("model").__name__} & native


LATER = """
    from transformers.models.auto import configuration_auto, modeling_auto
    model_type, config, model = sys.argv[1:4]
    configuration_auto.CONFIG_MAPPING_NAMES[model_type] = config
    modeling_auto.MODEL_MAPPING_NAMES[model_type] = model
    import codec_lm_hf
    from transformers import AutoModel
    ours = codec_lm_hf.AutoCodecModel.from_pretrained(sys.argv[4])
    auto = type(AutoModel.from_pretrained(sys.argv[4])).__module__ if sys.argv[5] == "auto" else None
    codec_lm_hf.register()
    print(json.dumps([type(ours).__module__, auto]))
"""


@pytest.fixture
def saved(tmp_path):
    TINY["soundstream"].model().save_pretrained(tmp_path)
    return tmp_path


def test_a_model_type_that_a_later_transformers_takes_is_left_to_it(saved):
    found = run(LATER, "soundstream", "SomeConfig", "SomeModel", saved, "ours only")
    assert found == ["codec_lm_hf.modeling.soundstream", None]


def test_class_names_that_a_later_transformers_takes_do_no_harm(saved):
    found = run(LATER, "some_type", "SoundStreamConfig", "SoundStreamModel", saved, "auto")
    assert found == ["codec_lm_hf.modeling.soundstream"] * 2

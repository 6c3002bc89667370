"""From an original checkpoint to a directory: what it records, what it refuses, and that it executes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel

from codec_lm_hf.conversion_scripts import ConversionError, convert
from codec_lm_hf.conversion_scripts.encodec import CONVERTER
from codec_lm_hf.conversion_scripts.engine import read_checkpoint, rename
from tests.common.tiny import TINY

CASE = Path(__file__).parents[1] / "parity" / "cases" / "encodec" / "causal_mono"
CHECKPOINT = CASE / "causal_mono.th"
CONFIG = json.loads((CASE / "case.json").read_text())["config"]


def changed(path: Path, change) -> Path:
    """The checkpoint with its state changed in place by `change`."""
    state = torch.load(CHECKPOINT, weights_only=True)
    change(state)
    torch.save(state, path)
    return path


def refused(message, tmp_path, checkpoint=CHECKPOINT, config=CONFIG, family="encodec", **options):
    """`convert` refuses with a message, and leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message):
        convert(family, checkpoint, tmp_path / "out", config=config, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_converted_directory_loads_and_says_where_it_comes_from(tmp_path):
    out = convert("encodec", CHECKPOINT, tmp_path / "new" / "out", config=CONFIG)
    digest = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    record = json.loads((out / "conversion.json").read_text())
    assert record["source"] == {"causal_mono.th": digest}
    assert record["original"] == {"config": CONFIG} and record["family"] == "encodec"
    card = ModelCard.load(out / "README.md")
    assert digest in card.text and record["weights_license"] in card.text and card.data.license is None
    model, features = AutoModel.from_pretrained(out).eval(), AutoFeatureExtractor.from_pretrained(out)
    inputs = features(torch.zeros(3000).numpy(), sampling_rate=features.sampling_rate, return_tensors="pt")
    assert model(**inputs).audio_values.shape == (1, 1, 3000)
    assert oct(out.stat().st_mode & 0o777) == "0o755"


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_configuration_file_says_the_same_as_a_dict(suffix, tmp_path):
    config = tmp_path / f"config{suffix}"
    config.write_text(json.dumps(CONFIG) if suffix == ".json" else yaml.safe_dump(CONFIG))
    for name, given_config in (("by_file", config), ("by_dict", CONFIG)):
        convert("encodec", CHECKPOINT, tmp_path / name, config=given_config)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("by_file", "by_dict")]
    assert weights[0].keys() == weights[1].keys()
    assert (tmp_path / "by_file" / "config.json").read_text() == (tmp_path / "by_dict" / "config.json").read_text()


def test_safetensors_are_read_like_torch_files(tmp_path):
    state = {key: value.contiguous() for key, value in torch.load(CHECKPOINT, weights_only=True).items()}
    save_file(state, tmp_path / "x.safetensors")
    out = convert("encodec", tmp_path / "x.safetensors", tmp_path / "out", config=CONFIG)
    assert AutoModel.from_pretrained(out).config.model_type == "encodec_codec"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("encoder.model.0.conv.conv.bias"), r"1 missing \(for example .*Give its --config"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 keys are unknown .*'extra'.*; is it the right family\?"),
        (lambda s: s.update({"encoder.model.0.conv.conv.bias": torch.zeros(3)}), r"of another shape \(.*\(3,\)"),
        (lambda s: s.update({"encoder.model.0.conv.conv.bias": 7}), "holds a int at encoder.*; expected a tensor"),
        (lambda s: s.update({3: torch.zeros(3)}), "expected a dict of tensors by name"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change, message, tmp_path):
    refused(message, tmp_path, changed(tmp_path / "x.th", change))


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    refused("unknown family 'encodecc'; choose one of", tmp_path, family="encodecc")
    refused("SoundStream has no converter: none were published", tmp_path, family="soundstream")
    refused("none.th does not exist; give the original checkpoint", tmp_path, tmp_path / "none.th")
    refused("is not a file; give the original checkpoint file", tmp_path, tmp_path)
    refused("give a configuration or a preset, not both", tmp_path, preset="encodec_24khz")
    refused("no preset 'encodec_96khz'; choose one of encodec_24khz", tmp_path, config=None, preset="encodec_96khz")
    refused("causal_mono.th holds weights only, .* give --preset", tmp_path, config=None)
    refused("no field 'depth'; known:", tmp_path, config={**CONFIG, "depth": 3})
    refused("does not fit the configuration", tmp_path, config=None, preset="encodec_24khz")
    refused("norm='spectral_norm' is not supported", tmp_path, config={**CONFIG, "norm": "spectral_norm"})
    refused("activation='Tanh' is not supported", tmp_path, config={**CONFIG, "activation": "Tanh"})


def test_arguments_left_out_are_the_constructors():
    """Of a codec described by its parts; and what only training needs is read too."""
    parts = {name: dict(part) for name, part in CONFIG.items()}
    del parts["seanet"]["causal"], parts["model"]["overlap"]
    parts["quantizer"] |= {"decay": 0.9, "kmeans_init": True, "kmeans_iters": 7, "threshold_ema_dead_code": 2}
    config = CONVERTER.config_from_original({**parts, "model": {**parts["model"], "segment": 1.0}})
    assert (config.use_causal_conv, config.overlap) == (False, 0.01)
    assert (config.codebook_decay, config.kmeans_iterations, config.revive_below) == (0.9, 7, None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "x.json is not valid JSON"),
        ("x.yaml", "a: [", "x.yaml is not valid YAML"),
        ("x.json", "[1]", "x.json holds a list; expected fields by name"),
        ("x.yaml", "", "x.yaml holds a NoneType; expected fields"),
        ("x.json", '{"sample_rate": "fast"}', "the configuration is none of this family's originals"),
        ("x.json", '{"bins": 0.5}', "the configuration is none of this family's originals"),
    ],
)
def test_a_configuration_that_is_none_is_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    refused(message, tmp_path, config=tmp_path / name)


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refused("exists and is not an empty directory; choose another output", tmp_path)
    (tmp_path / "out" / "mine.txt").unlink()
    assert convert("encodec", CHECKPOINT, tmp_path / "out", config=CONFIG).is_dir()


def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        convert("encodec", CHECKPOINT, tmp_path / "file" / "out", config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("codec_lm_hf.conversion_scripts.engine.sha256", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert("encodec", CHECKPOINT, tmp_path / "out", config=CONFIG)
    assert not list(tmp_path.iterdir())


# --- hostile and damaged files ---------------------------------------------------------------------------------------


class Payload:
    """Unpickled without care, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_zip(payload, path):
    torch.save({"weights": payload}, path)


def write_legacy(payload, path):
    torch.save({"weights": payload}, path, _use_new_zipfile_serialization=False)


def write_plain(payload, path):
    path.write_bytes(pickle.dumps({"weights": payload}))


hostile = pytest.mark.parametrize("write", [write_zip, write_legacy, write_plain])


@hostile
@pytest.mark.parametrize("name", ["x.th", "x.pt", "x.ckpt", "encodec_24khz.th"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(write, name, tmp_path):
    trace = tmp_path / "trace"
    write(Payload(trace), tmp_path / name)
    refused("holds more than tensors and was not loaded, because its pickle could run code", tmp_path, tmp_path / name)
    assert not trace.exists()
    if write is write_plain:
        pickle.loads((tmp_path / name).read_bytes())
        assert trace.exists(), "or the payload was harmless, and all this would prove nothing"


@hostile
def test_from_pretrained_does_not_run_it_either(write, tmp_path):
    trace, folder = tmp_path / "trace", tmp_path / "model"
    TINY["encodec"].model().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    write(Payload(trace), folder / "pytorch_model.bin")
    with pytest.raises(Exception, match="(?i)weights.only|unsupported|pickle|safetensors"):
        AutoModel.from_pretrained(folder)
    assert not trace.exists()


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
def test_a_file_cut_short_is_refused(share, suffix, tmp_path):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".th":
        shutil.copy(CHECKPOINT, whole)
    else:
        save_file({key: value.contiguous() for key, value in read_checkpoint(CHECKPOINT).items()}, whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: round(len(data) * share)])
    refused(f"cut{suffix} cannot be read as a checkpoint; it may be cut short|holds more than", tmp_path, cut)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_damage_ends_in_a_refusal_or_in_other_numbers(data, tmp_path):
    """Formats without checksums cannot know better; nothing else may happen."""
    original = pickled() if data.draw(st.booleans()) else CHECKPOINT.read_bytes()
    start = data.draw(st.integers(0, len(original) - 1))
    damaged = original[:start] + data.draw(st.binary(max_size=8)) + original[start + data.draw(st.integers(0, 8)) :]
    (tmp_path / "x.th").write_bytes(damaged)
    try:
        rename(read_checkpoint(tmp_path / "x.th"), [(".*", r"\g<0>")])
    except ConversionError as error:
        assert "x.th" in str(error)


def pickled() -> bytes:
    """A small file in the old format, where a flipped bit is likely to meet the pickle."""
    from io import BytesIO

    file = BytesIO()
    torch.save({"a": torch.zeros(2), "b": [1, {"c": 2.5}]}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()

"""AudioDec's files: which belong together, and what is refused. Numbers are compared in tests/parity."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml

import codec_lm_hf
from codec_lm_hf.conversion_scripts import ConversionError
from codec_lm_hf.conversion_scripts.audiodec import config_from_original
from codec_lm_hf.conversion_scripts.engine import read_config_file
from tests.parity.harness import find_cases, layout_root

CASE = next(path for path in find_cases() if path.parts[-2:] == ("audiodec", "symaad_univ_v0"))


@pytest.fixture
def archive(tmp_path):
    """The original's folder `exp` with one autoencoder and one vocoder."""
    exp = tmp_path / "exp"
    shutil.copytree(CASE / "autoencoder", exp / "autoencoder" / CASE.name)
    shutil.copytree(CASE / "vocoder", exp / "vocoder" / "mine")
    return exp


@pytest.fixture
def autoencoder(archive):
    return archive / "autoencoder" / CASE.name / "checkpoint-200000steps.pkl"


@pytest.fixture
def vocoder(archive):
    return archive / "vocoder" / "mine" / "checkpoint-500000steps.pkl"


def refused(checkpoint, message, **options):
    output = checkpoint.parents[3] / "out"
    with pytest.raises(ConversionError, match=message):
        codec_lm_hf.convert("audiodec", checkpoint, output, **options)
    assert not output.exists()


def change_config(checkpoint, **fields):
    path = checkpoint.with_name("config.yml")
    path.write_text(yaml.safe_dump({**read_config_file(path), **fields}))


@pytest.mark.parametrize("name", codec_lm_hf.AudioDecCodecConfig.presets)
def test_presets_are_the_published_configurations(name):
    layout = json.loads((layout_root() / "audiodec" / f"{name}.json").read_text())["config"]
    if layout["train_mode"] == "vocoder":
        analyzer = layout["analyzer"].split("/")[2]
        table = json.loads((layout_root() / "audiodec" / f"{analyzer}.json").read_text())
        layout = {"autoencoder": table["config"], "vocoder": layout}
    published = config_from_original(layout).to_dict()
    assert json.dumps(codec_lm_hf.AudioDecCodecConfig.from_preset(name).to_dict()) == json.dumps(published)


def test_files_of_one_name_are_told_apart(archive, autoencoder, vocoder, tmp_path):
    """As in the published LibriTTS pair, both of 500000 steps."""
    autoencoder.rename(autoencoder.with_name(vocoder.name))
    change_config(vocoder, analyzer=f"exp/autoencoder/{CASE.name}/{vocoder.name}")
    folder = codec_lm_hf.convert("audiodec", vocoder, tmp_path / "out")
    record = json.loads((folder / "conversion.json").read_text())
    assert set(record["source"]) == {f"autoencoder/{CASE.name}/{vocoder.name}", f"vocoder/mine/{vocoder.name}"}
    assert set(record["original"]["config"]) == {"autoencoder", "vocoder"}


def test_encoder_of_another_training_takes_its_place(autoencoder, vocoder, tmp_path):
    """As the published denoising encoders are used: any encoder with the codebooks and the decoder that it was for."""
    other = codec_lm_hf.AudioDecCodecModel.from_pretrained(
        codec_lm_hf.convert("audiodec", autoencoder, tmp_path / "a")
    )
    model = codec_lm_hf.AudioDecCodecModel.from_pretrained(codec_lm_hf.convert("audiodec", vocoder, tmp_path / "b"))
    for parameter in other.encoder.parameters():
        parameter.data.mul_(1.1)
    model.encoder.load_state_dict(other.encoder.state_dict())
    audio = torch.randn(1, 1, 400) * 0.1
    assert torch.equal(model.eval().encode(audio).audio_codes, other.eval().encode(audio).audio_codes)


def test_a_vocoder_without_its_autoencoder_is_refused(autoencoder, vocoder):
    autoencoder.unlink()
    refused(vocoder, r"names exp/autoencoder/.* as the vocoder's autoencoder, which is in no folder above")


def test_a_vocoder_without_its_configuration_is_refused(vocoder):
    vocoder.with_name("config.yml").unlink()
    refused(vocoder, "holds weights only, .* give --preset")
    name = "AudioDec_v1_symAD_vctk_48000_hop300_clean"
    refused(vocoder, "holds no encoder. Of a vocoder, the original's config.yml must lie beside", preset=name)


def test_an_autoencoder_without_its_configuration_needs_a_preset(autoencoder):
    autoencoder.with_name("config.yml").unlink()
    refused(autoencoder, "holds weights only, .* give --preset")
    refused(autoencoder, "does not fit the configuration", preset="symAD_vctk_48000_hop300")


def test_a_file_of_another_project_is_refused(autoencoder):
    torch.save({"state_dict": {}}, autoencoder)
    refused(autoencoder, "has no tensors at model, generator; is it a checkpoint of AudioDec")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "both"}, r"mode='both' is not supported; expected \['causal', 'noncausal'\]"),
        ({"projector": "conv1d_bn"}, "projector='conv1d_bn' is not supported; every published model has 'conv1d'"),
        (
            {"codec": "soundstream"},
            r"codec='soundstream' is not supported; expected \['activate_audiodec', 'audiodec'\]",
        ),
        (
            {"nonlinear_activation": "ELU", "nonlinear_activation_params": {"alpha": 0.5}},
            "nonlinear_activation=.*0.5.* is not supported",
        ),
        ({"output_channels": 2}, "output_channels=2 is not supported; expected 1"),
        ({"depth": 2}, "no field 'depth'; known:"),
        ({"code_dim": 13}, r"the vocoder's in_channels \(12\) must be the autoencoder's code_dim"),
        ({"enc_strides": [4, 3]}, "must multiply to the hop length of encoder_strides, 12"),
    ],
)
def test_an_autoencoder_s_configuration_that_no_published_one_has(fields, message, autoencoder, vocoder):
    params = {**read_config_file(autoencoder.with_name("config.yml"))["generator_params"], **fields}
    change_config(autoencoder, generator_params=params)
    refused(vocoder, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"upsample_kernel_sizes": [10, 9]}, r"upsample_kernel_sizes must be twice upsample_scales, \[10, 8\]"),
        ({"bias": False}, "bias=False is not supported; every published model has True"),
    ],
)
def test_a_vocoder_s_configuration_that_no_published_one_has(fields, message, vocoder):
    params = {**read_config_file(vocoder.with_name("config.yml"))["generator_params"], **fields}
    change_config(vocoder, generator_params=params)
    refused(vocoder, message)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mode": "noncausal"}, {"use_causal_conv": False}),
        (
            {"nonlinear_activation_params": {"negative_slope": 0.3}},
            {"activation": "leaky_relu", "negative_slope": 0.3},
        ),
        ({"nonlinear_activation_params": {}}, {"activation": "leaky_relu", "negative_slope": 0.01}),
        (
            {"nonlinear_activation": "ReLU", "nonlinear_activation_params": {}},
            {"activation": "leaky_relu", "negative_slope": 0.0},
        ),
        ({"nonlinear_activation": "ELU", "nonlinear_activation_params": {"alpha": 1.0}}, {"activation": "elu"}),
    ],
)
def test_an_autoencoder_s_configuration_beyond_the_published_ones(fields, expected, autoencoder):
    original = read_config_file(autoencoder.with_name("config.yml"))
    config = config_from_original({**original, "generator_params": {**original["generator_params"], **fields}})
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_vocoder_without_statistics_normalises_nothing(vocoder, tmp_path):
    params = {**read_config_file(vocoder.with_name("config.yml"))["generator_params"], "stats": None}
    change_config(vocoder, generator_params=params)
    original = torch.load(vocoder, weights_only=True)
    for name in ("mean", "scale"):
        del original["model"]["generator"][name]
    torch.save(original, vocoder)
    model = codec_lm_hf.AudioDecCodecModel.from_pretrained(codec_lm_hf.convert("audiodec", vocoder, tmp_path / "out"))
    assert not model.decoder.mean.any() and bool((model.decoder.scale == 1).all())


def test_a_vocoder_s_configuration_beyond_the_published_ones(autoencoder, vocoder):
    ours, theirs = (read_config_file(path.with_name("config.yml")) for path in (autoencoder, vocoder))
    theirs["generator_params"] |= {"use_additional_convs": False, "use_weight_norm": False, "groups": 2}
    config = config_from_original({"autoencoder": ours, "vocoder": theirs})
    assert (config.vocoder_paired_convolutions, config.vocoder_norm_type, config.vocoder_groups) == (False, "none", 2)


def test_what_a_vocoder_s_configuration_leaves_out_is_as_in_the_original(autoencoder, vocoder):
    ours, theirs = (read_config_file(path.with_name("config.yml")) for path in (autoencoder, vocoder))
    for name in ("groups", "resblock_kernel_sizes", "resblock_dilations", "use_weight_norm", "stats"):
        del theirs["generator_params"][name]
    config = config_from_original({"autoencoder": ours, "vocoder": theirs})
    assert (config.vocoder_groups, [*config.vocoder_residual_kernel_sizes]) == (1, [3, 7, 11])
    assert config.vocoder_norm_type == "weight_norm"


def test_configurations_that_make_no_model_are_refused(autoencoder, vocoder):
    ours, theirs = (read_config_file(path.with_name("config.yml")) for path in (autoencoder, vocoder))
    refused(vocoder, r"the configuration of an autoencoder, or of one and a vocoder; got \['UnivNet'\]", config=theirs)
    refused(vocoder, "model_type must be one of .*, got", config={**ours, "model_type": "EnCodec"})
    change_config(vocoder, sampling_rate=48000)
    refused(vocoder, r"must have one sampling_rate, got \['16000', '48000'\]")

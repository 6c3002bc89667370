"""FunCodec's released directory: what config.yaml says is followed, what is not supported is refused by name."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
import yaml

import codec_lm_hf
from codec_lm_hf import FunCodecConfig
from codec_lm_hf.conversion_scripts.discriminator import CONVERTER as DISCRIMINATOR
from codec_lm_hf.conversion_scripts.engine import ConversionError
from codec_lm_hf.conversion_scripts.funcodec import CONVERTER, config_from_original
from tests.common.weights import assert_holds
from tests.parity.harness import layout_root

LAYOUTS = {path.stem: path for path in sorted((layout_root() / "funcodec").glob("*.json"))}
SMALL = {
    "encoder_conf": {"n_filters": 4, "dimension": 8, "ratios": [4, 2], "seq_model": "none", "norm": "time_group_norm"},
    "decoder_conf": {"n_filters": 4, "ratios": [4, 2], "seq_model": "none", "norm": "time_group_norm"},
    "quantizer_conf": {"codebook_size": 16, "num_quantizers": 3},
    "model_conf": {"segment_dur": None},
    "sampling_rate": 16000,
}


def changed(**sections):
    original = copy.deepcopy(SMALL)
    for section, values in sections.items():
        original[section] = {**original.get(section, {}), **values} if isinstance(values, dict) else values
    return original


def in_both(**values):
    return {"encoder_conf": values, "decoder_conf": values}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_preset_is_what_the_recipe_says(name):
    preset = name.removeprefix("recipe_").removesuffix(".candidate")
    config = config_from_original(json.loads(LAYOUTS[name].read_text())["config"])
    assert config.to_dict() == FunCodecConfig.from_preset(preset).to_dict()


def test_what_is_not_said_has_the_defaults_of_the_original_not_of_our_configuration():
    config = config_from_original({"model_conf": {"segment_dur": None}})
    assert config.norm_type == "weight_norm" and config.num_lstm_layers == 2
    assert config.num_quantizers == 8 and config.codebook_decay == 0.95 and config.sampling_rate == 24000
    assert config.normalize and config.quantizer_dropout == 0.0
    spectra = {"encoder": "encodec_seanet_encoder_2d", "decoder": "encodec_seanet_decoder_2d", "model": "freq_codec"}
    config = config_from_original(
        {
            **spectra,
            "input_size": 3,
            "decoder_conf": {"channels": 3},
            "model_conf": {"segment_dur": None, "codec_domain": ["mag_phase", "mag_phase"]},
        }
    )
    assert not config.normalize and config.hop_length == 320 and config.frequency_ratios == (4, 4, 4, 4)


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({}, "elu"),
        ({"activation": "snake"}, "snake"),
        ({"activation": "ELU", "activation_params": {}}, "elu"),
        ({"activation": "LeakyReLU", "activation_params": {"negative_slope": 0.2}}, "leaky_relu"),
    ],
)
def test_activations_that_the_original_has_by_name(options, activation):
    assert config_from_original(changed(**in_both(**options))).activation == activation


def test_segments_are_those_of_the_configuration():
    """What is not said of them has the original's defaults: `tests/parity/cases/funcodec/segments` codes by them."""
    for model, segments in (
        ({"segment_dur": 0.4, "overlap_ratio": 0.25}, (0.4, 0.25)),
        ({"segment_dur": 2}, (2, 0.01)),
        ({"segment_dur": None, "overlap_ratio": 0.25}, (None, None)),
    ):
        config = config_from_original(changed(model_conf={"target_sample_hz": 16000, **model}))
        assert (config.chunk_length_s, config.overlap) == segments
    unsaid = config_from_original({"model_conf": {"audio_normalize": False}})
    assert (unsaid.chunk_length_s, unsaid.overlap, unsaid.sampling_rate) == (1.0, 0.01, 24000)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"model_conf": {"segment_dur": 1.0, "target_sample_hz": 24000}},
            "segment_dur counts 24000 samples a second .* sampling_rate is 16000",
        ),
        (
            {"model_conf": {"segment_dur": 1.0, "target_sample_hz": 16000, "overlap_ratio": None}},
            "overlap_ratio is null",
        ),
        (
            {"model": "codec_semantic_aug", "model_conf": {"segment_dur": 1.0, "ppg_conf": {}}},
            "semantic ids do not come in segments",
        ),
        ({"encoder_conf": {"ratios": [4, 4]}}, "must agree, but upsampling_ratios is"),
        ({"encoder_conf": {"width": 3}}, "encoder_conf has the unknown option 'width'"),
        ({"encoder_conf": {"activation": "snake"}}, "must agree, but activation is 'snake' and 'ELU'"),
        (in_both(activation="GELU", activation_params={}), "activation='GELU' .*LeakyReLU"),
        (in_both(activation="LeakyReLU", activation_params={"negative_slope": 0.1}), "activation_params=.*0.1"),
        (in_both(norm="spectral_norm"), "norm_type='spectral_norm' is not supported; none, weight_norm"),
        (in_both(pad_mode="circular"), "pad_mode='circular' is not supported; constant, reflect, replicate are"),
        ({"encoder_conf": {"seq_model": "transformer"}, "decoder_conf": {"seq_model": "transformer"}}, "transformer"),
        ({"quantizer_conf": {"codec_dim": 4}}, "codec_dim=4 is not supported"),
        ({"quantizer": "identity_quantizer"}, "identity_quantizer is not supported"),
        ({"decoder": "encodec_seanet_decoder_2d"}, "encodec_seanet_decoder_2d is not supported"),
        ({"frontend": "default"}, "frontend: default is not supported"),
        ({"model_conf": {"codec_domain": ["mag", "mag"]}}, "codec_domain: .* is not supported"),
        ({"model_conf": {"codec_domain": ["stft", "mag_phase"]}}, "reading and writing must be the same"),
        ({"model_conf": {"codec_domain": ["stft", "stft"]}}, "stft spectra have 514 channels here"),
        ({"input_size": 2}, "the decoder has 1 channels, but input_size is 2"),
        (
            {"model": "codec_semantic_aug", "model_conf": {"ppg_conf": {"ppg_usage_mod": "ptts"}}},
            "ptts is not supported",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(sections, message):
    with pytest.raises(ConversionError, match=message):
        config_from_original(changed(**sections))


def original_state(stacked: bool):
    """A state as the original saves it, made from a model of ours."""
    torch.manual_seed(0)
    config = config_from_original(SMALL)
    model = CONVERTER.model_class(config)
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    state = {}
    for key, value in model.state_dict().items():
        for part in ("encoder", "decoder"):
            key = key.replace(f"{part}.layers.", f"{part}.model.")
        wrapper = "convtr" if key.startswith("decoder.model.2.") or key.startswith("decoder.model.5.") else "conv"
        key = key.replace(".conv.", f".{wrapper}.{wrapper}.").replace(".norm.", f".{wrapper}.norm.")
        state[key] = value
    books = {key: state.pop(key) for key in list(state) if key.startswith("quantizer.")}
    for name in ("inited", "cluster_size", "embed", "embed_avg"):
        parts = [books[f"quantizer.layers.{index}.codebook.{name}"] for index in range(3)]
        if stacked:
            state[f"quantizer.rq.model.{name}"] = torch.stack(parts)
        else:
            for index, part in enumerate(parts):
                state[f"quantizer.rq.model.layers.{index}._codebook.{name}"] = part
    return model, state


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_both_containers_and_both_ways_to_keep_codebooks(stacked, nested, tmp_path):
    model, state = original_state(stacked)
    state["discriminator.discriminators.0.weight"] = torch.zeros(1)
    state["mel_spec_transforms.0.window"] = torch.zeros(1)
    torch.save({"model": state, "epoch": 3} if nested else state, tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SMALL))
    codec_lm_hf.convert("funcodec", tmp_path / "model.pth", tmp_path / "ours")
    loaded = codec_lm_hf.AutoCodecModel.from_pretrained(tmp_path / "ours")
    assert_holds(loaded, model)


def test_a_supervised_model_brings_its_classifier_and_leaves_idle_layers(tmp_path):
    supervision = {"ppg_usage_mod": "supervision", "ppg_dim": 11}
    original = changed(model="codec_semantic_aug", model_conf={"segment_dur": None, "ppg_conf": supervision})
    torch.manual_seed(0)
    classifier = CONVERTER.model_class(config_from_original(original)).classifier
    _, state = original_state(True)
    for key, value in classifier.state_dict().items():
        state[re.sub(r"layers\.(\d)\.", r"ppg_classifier.\1.conv.", key)] = value
    idle = ("ppg_embedding.weight", "ppg_ds_layer.0.conv.conv.weight", "ppg_cond_layer.0.conv.conv.weight")
    torch.save(state | {key: torch.zeros(1) for key in idle}, tmp_path / "model.pth")
    codec_lm_hf.convert("funcodec", tmp_path / "model.pth", tmp_path / "ours", config=original)
    loaded = codec_lm_hf.AutoCodecModel.from_pretrained(tmp_path / "ours")
    assert loaded.config.semantic_mode == "supervision" and loaded.config.semantic_vocab_size == 11
    assert_holds(loaded.classifier, classifier)


def test_without_the_configuration_beside_it_the_message_asks_for_one(tmp_path):
    torch.save(original_state(True)[1], tmp_path / "model.pth")
    with pytest.raises(ConversionError, match="give --preset .*or --config"):
        codec_lm_hf.convert("funcodec", tmp_path / "model.pth", tmp_path / "ours")


def test_a_model_with_another_number_of_codebooks_is_refused(tmp_path):
    torch.save(original_state(True)[1], tmp_path / "model.pth")
    with pytest.raises(ConversionError, match="4 left over"):
        codec_lm_hf.convert(
            "funcodec",
            tmp_path / "model.pth",
            tmp_path / "ours",
            config=changed(quantizer_conf={"num_quantizers": 2}),
        )


SCALES = {"channels": 4, "max_downsample_channels": 8, "downsample_scales": [2, 1], "max_groups": 4}
PERIODS = {"channels": 4, "downsample_scales": [3, 1], "use_weight_norm": False, "use_spectral_norm": True}
STFT = {"name": "encodec_multi_scale_stft_discriminator", "filters": 2, "n_ffts": [64], "hop_lengths": [16]}
STFT["win_lengths"] = [64]


def discriminators(*entries):
    return DISCRIMINATOR.config_from_original({"disc_conf_list": list(entries)})


def test_discriminators_of_the_same_kind_in_several_groups_are_told_apart():
    both = {
        "name": "hifigan_multi_scale_multi_period_discriminator",
        "scales": 2,
        "scale_discriminator_params": SCALES,
        "periods": [3],
        "period_discriminator_params": {**PERIODS, "nonlinear_activation_params": {"negative_slope": 0.3}},
    }
    config = discriminators({**STFT, "activation_params": {"negative_slope": 0.4}}, both, STFT)
    assert [part["kind"] for part in config.parts] == ["stft", "scale", "scale", "period", "stft"]
    slopes = [config.options(index)["negative_slope"] for index in range(len(config.parts))]
    assert slopes == [0.4, 0.1, 0.1, 0.3, 0.2]
    assert config.parts[3]["norm_type"] == "spectral_norm"
    places = ["0.discriminators.0", "1.msd.discriminators.0", "1.msd.discriminators.1", "1.mpd.discriminators.0"]
    state = {
        f"{prefix}discriminator.discriminators.{place}.convs.0.0.bias": torch.tensor(float(index))
        for prefix in ("", "model/")
        for index, place in enumerate([*places, "2.discriminators.0"])
        if prefix == ("model/" if index % 2 else "")
    }
    state |= {"model/encoder.model.0.conv.conv.bias": torch.zeros(1), "optimizers": []}
    renamed = DISCRIMINATOR.rename(dict(sorted(state.items(), reverse=True)), config)
    assert {key: int(value) for key, value in renamed.items()} == {
        f"discriminators.{index}.convs.0.bias": index for index in range(5)
    }


def test_discriminators_of_soundstream():
    waves = {"name": "soundstream_multi_scale_discriminator", "discriminator_params": {"layers": 1, "chan_max": 32}}
    spectra = {"name": "soundstream_complex_stft_discriminator", "channels": 4, "logits_abs": False}
    config = discriminators(spectra, {**waves, "disc_multi_scales": [1, 0.5, 0.125]})
    assert config.parts[0] == {"kind": "complex_stft", "filters": 4, "absolute_logits": False}
    assert [(part["pooling"], part["max_channels"]) for part in config.parts[1:]] == [(1, 32), (2, 32), (4, 32)]
    keys = ["0.layers.5.1.b", "0.final_conv.weight", "1.discriminators.2.conv_layers.0.0.bias"]
    state = {f"discriminator.discriminators.{key}": torch.zeros(1) for key in keys}
    state |= {
        f"discriminator.discriminators.1.discriminators.{scale}.init_conv.bias": torch.zeros(1) for scale in (0, 1)
    }
    assert sorted(DISCRIMINATOR.rename(state, config)) == [
        "discriminators.0.conv_post.weight",
        "discriminators.0.units.5.1.b",
        "discriminators.1.first.bias",
        "discriminators.2.first.bias",
        "discriminators.3.convs.0.bias",
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "hifigan_multi_period_discriminator", "discriminator_params": {"bias": False}}, "bias=False"),
        (
            {"name": "hifigan_multi_scale_discriminator", "downsample_pooling_params": {"kernel_size": 2}},
            "downsample_pooling_params=",
        ),
        ({**STFT, "activation": "ReLU"}, "activation='ReLU' is not supported; every published model has 'LeakyReLU'"),
        ({**STFT, "filters_scale": 2}, "filters_scale=2"),
    ],
)
def test_discriminators_that_are_not_ours_are_refused_by_name(entry, message):
    with pytest.raises(ConversionError, match=message):
        discriminators(entry)

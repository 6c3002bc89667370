"""What is MusicGen's own: transformers' native checkpoints, read with the T5 and the codec that are in them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)

from codec_lm_hf import (
    AudioGenLMForConditionalGeneration,
    AutoCodecModel,
    EncodecCodecModel,
    MusicGenLMConfig,
    MusicGenLMForConditionalGeneration,
    MusicGenLMProcessor,
)
from tests.common.tiny_text import tiny_tokenizer

TEXTS = ["a calm piano tune", "dogs", ""]
CODES, CODEBOOKS, FRAMES = 16, 4, 12
CODEC = {
    "target_bandwidths": [0.8],
    "sampling_rate": 800,
    "hidden_size": 8,
    "num_filters": 2,
    "upsampling_ratios": [4, 4],
    "codebook_size": CODES,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
    "pad_mode": "constant",
    "num_lstm_layers": 1,
}
DECODER = {
    "vocab_size": CODES,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "ffn_dim": 64,
    "num_attention_heads": 2,
    "initializer_factor": 0.6,
    "pad_token_id": CODES,
    "bos_token_id": CODES,
}
KINDS = {
    "mono": (MusicgenForConditionalGeneration, MusicgenConfig, MusicgenDecoderConfig, 1, {}),
    "stereo": (MusicgenForConditionalGeneration, MusicgenConfig, MusicgenDecoderConfig, 2, {}),
    "melody": (
        MusicgenMelodyForConditionalGeneration,
        MusicgenMelodyConfig,
        MusicgenMelodyDecoderConfig,
        1,
        {"num_chroma": 12, "chroma_length": 3},
    ),
}


def native_model(kind: str):
    """One of transformers' own, tiny, with random weights and the files that go with it."""
    model_class, config_class, decoder_class, channels, more = KINDS[kind]
    # Pitch classes need windows of a fixed length, so that a melody of a few frames has the rate of real ones.
    real = {"sampling_rate": 32000, "upsampling_ratios": [8, 5, 4, 4]}
    symbols = len(tiny_tokenizer())
    config = config_class(
        text_encoder=T5Config(vocab_size=symbols, d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2),
        audio_encoder=EncodecConfig(**CODEC | (real if kind == "melody" else {})),
        decoder=decoder_class(**DECODER, num_codebooks=CODEBOOKS * channels, audio_channels=channels),
        **more,
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_(0, 0.3)
    start = {"pad_token_id": CODES, "bos_token_id": CODES, "decoder_start_token_id": CODES}
    model.generation_config.update(guidance_scale=3.0, max_length=40, **start)
    return model


def native_codes(model, frames: int, **given) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes that native's `generate` decodes, and the audio that it makes of them."""
    decode, heard = model.audio_encoder.decode, []

    def listen(codes, **kwargs):
        heard.append(codes[0])
        return decode(codes, **kwargs)

    model.audio_encoder.decode = listen
    # There the steps of the delays count as new ones.
    audio = model.generate(**given, do_sample=False, max_new_tokens=frames + CODEBOOKS - 1)
    model.audio_encoder.decode = decode
    return torch.stack(heard, dim=2).flatten(1, 2), audio


@pytest.fixture(scope="module", params=KINDS)
def native(request, tmp_path_factory):
    """Native model, its folder, and ours of it with its processor."""
    model, folder = native_model(request.param), tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    ours = MusicGenLMForConditionalGeneration.from_pretrained(folder)
    return model, folder, ours, MusicGenLMProcessor.from_pretrained(folder)


def given_to(native, melody: bool = True) -> tuple[dict, dict]:
    """The same for ours and for theirs."""
    model, _, ours, processor = native
    if not ours.config.num_chroma or not melody:
        inputs = processor(TEXTS)
        return inputs, dict(inputs)
    tunes = [np.sin(2 * np.pi * pitch * np.arange(20000) / 32000).astype(np.float32) for pitch in (262, 330, 440)]
    inputs = processor(TEXTS, melody=tunes)
    features = ours.chroma(inputs["melody_values"][:, 0])
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return inputs, {**texts, "input_features": features}


@pytest.mark.parametrize("scale", [3.0, 1.0])
def test_native_checkpoints_play_the_same_codes_and_audio(native, scale):
    """Also of texts that are padded or empty, as native pads them."""
    model, _, ours, processor = native
    inputs, theirs = given_to(native)
    expected, audio = native_codes(model, FRAMES, **theirs, guidance_scale=scale)
    codes = ours.generate(**inputs, do_sample=False, max_new_tokens=FRAMES, guidance_scale=scale)
    assert torch.equal(codes, expected) and len(expected.unique()) > 5
    for wave, row in zip(processor.batch_decode(codes), audio, strict=True):
        torch.testing.assert_close(wave, row, atol=1e-5, rtol=1e-4)


def test_inputs_without_a_text_are_native_s_and_those_of_empty_texts(native):
    model, _, ours, processor = native
    options = {"do_sample": False, "max_new_tokens": FRAMES}
    inputs = ours.get_unconditional_inputs(num_samples=2)
    codes = ours.generate(**inputs, **options)
    assert codes.shape[0] == 2 and torch.equal(codes, ours.generate(**processor(["", ""]), **options))
    if not ours.config.num_chroma:  # there it is a method of the processor
        assert torch.equal(codes, native_codes(model, FRAMES, **model.get_unconditional_inputs(num_samples=2))[0])
    with pytest.raises(ValueError, match="give input_ids or .*; get_unconditional_inputs\\(\\) makes some"):
        ours.generate(**options)


def test_native_prompts_are_gone_on_from(native):
    model, _, ours, processor = native
    if ours.config.num_chroma:
        inputs, theirs = given_to(native, melody=False)
        prompt = torch.randint(CODES, (3, CODEBOOKS, 4), generator=torch.Generator().manual_seed(1))
        theirs["decoder_input_ids"] = prompt.flatten(0, 1)
    else:
        channels = ours.config.audio_channels
        waves = torch.randn(3, channels, 64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1) * 0.5
        inputs, theirs = processor(TEXTS, audio=list(waves.numpy())), dict(processor(TEXTS), input_values=waves)
        prompt = inputs.pop("prompt_codes")
    expected, _ = native_codes(model, FRAMES, **theirs)
    found = ours.generate(**inputs, prompt_codes=prompt, do_sample=False, max_new_tokens=FRAMES)
    assert torch.equal(torch.cat([prompt, found], dim=-1), expected)


def test_the_generation_config_of_a_native_checkpoint_counts(native):
    model, _, ours, _ = native
    options = ours.generation_config
    assert options.guidance_scale == 3.0 and options.max_length is None and options.pad_token_id is None
    inputs, theirs = given_to(native)
    expected, _ = native_codes(model, FRAMES, **theirs)
    assert torch.equal(ours.generate(**inputs, do_sample=False, max_new_tokens=FRAMES), expected)


def test_every_weight_of_a_native_checkpoint_arrives(native):
    _, folder, _, processor = native
    _, info = MusicGenLMForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    codec = AutoCodecModel.from_pretrained(folder)
    assert type(codec) is EncodecCodecModel and type(processor.codec) is EncodecCodecModel
    assert codec.config.sampling_rate == processor.sampling_rate


def test_what_was_native_is_saved_as_ours_whole(native, tmp_path):
    _, _, ours, processor = native
    inputs, _ = given_to(native)
    ours.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MusicGenLMConfig
    assert {path.name for path in tmp_path.iterdir()} >= {"text_encoder", "codec", "tokenizer.json"}
    loaded = MusicGenLMForConditionalGeneration.from_pretrained(tmp_path)
    again = MusicGenLMProcessor.from_pretrained(tmp_path)
    assert set(loaded.state_dict()) == set(ours.state_dict())
    codes = [model.generate(**inputs, do_sample=False, max_new_tokens=5) for model in (ours, loaded)]
    assert torch.equal(*codes)
    np.testing.assert_array_equal(again.batch_decode(codes[1])[0], processor.batch_decode(codes[0])[0])
    assert again.tokenizer(TEXTS)["input_ids"] == processor.tokenizer(TEXTS)["input_ids"]


def test_checkpoints_as_older_transformers_wrote_them(native, tmp_path):
    """Those on the Hub: positions among the weights, weight norm by its old names, configurations full of defaults."""
    model, folder, ours, processor = native
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    for new, old in enumerate(("weight_g", "weight_v")):
        new = f"parametrizations.weight.original{new}"
        weights = {name.replace(new, old): value for name, value in weights.items()}
    positions = model.decoder.model.decoder.embed_positions.weights
    weights["decoder.model.decoder.embed_positions.weights"] = positions.clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_encoder", "audio_encoder", "decoder"):
        defaults = {"_name_or_path": "", "add_cross_attention": False, "torchscript": False, "torch_dtype": "float32"}
        config[part] = {**defaults, "chunk_size_feed_forward": 0, "tf_legacy_loss": False, **config[part]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    old, info = MusicGenLMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    inputs, _ = given_to(native)
    codes = [one.generate(**inputs, do_sample=False, max_new_tokens=5) for one in (ours, old)]
    assert torch.equal(*codes)
    read = MusicGenLMProcessor.from_pretrained(tmp_path)
    torch.testing.assert_close(read.codec.state_dict(), processor.codec.state_dict(), atol=0, rtol=0)
    # Weights lie otherwise in the memory of another file, which on some CPUs decides on last bits.
    np.testing.assert_allclose(read.batch_decode(codes[0])[0], processor.batch_decode(codes[0])[0], atol=1e-6)


def test_windows_and_training_know_what_native_configurations_say_not():
    config = MusicGenLMConfig.from_dict(native_model("melody").config.to_dict())
    assert config.chroma_frames == 3 and 0 < config.extend_stride < config.max_duration < 0.4
    assert config.text_condition == "prefix" and not config.mask_text_padding
    config = MusicGenLMConfig.from_dict(native_model("stereo").config.to_dict())
    assert config.max_duration == 30 and config.mask_text_padding and config.frame_rate == 50
    assert list(config.delays) == [0, 0, 1, 1, 2, 2, 3, 3]
    published = {"model_type": "musicgen_melody", "decoder": {}, "text_encoder": {"model_type": "t5", "d_model": 768}}
    published["audio_encoder"] = {"model_type": "encodec", "sampling_rate": 32000}
    assert MusicGenLMConfig.from_dict(published).max_duration == 30


def test_audiogen_in_native_layout_is_read_as_such(tmp_path):
    model = native_model("mono")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    ours = AudioGenLMForConditionalGeneration.from_pretrained(tmp_path)
    assert ours.config.max_duration == 10 and type(ours.config).model_type == "audiogen_codec_lm"
    inputs = MusicGenLMProcessor.from_pretrained(tmp_path)(TEXTS)
    expected, _ = native_codes(model, FRAMES, **inputs)
    assert torch.equal(ours.generate(**inputs, do_sample=False, max_new_tokens=FRAMES), expected)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("decoder", "activation_function", "relu", "activation_function='relu' is not supported"),
        ("decoder", "scale_embedding", True, "scale_embedding=True is not supported"),
        ("decoder", "ffn_dim", 65, "ffn_dim must be a multiple"),
        ("text_encoder", "d_model", 32, "projected to another width than their own"),
    ],
)
def test_native_architectures_that_nobody_published_are_refused(part, field, value, message):
    config = native_model("mono").config.to_dict()
    config[part][field] = value
    with pytest.raises(ValueError, match=message):
        MusicGenLMConfig.from_dict(config)


def test_a_native_checkpoint_without_its_codec_is_refused_by_name(tmp_path):
    native_model("mono").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("audio_encoder.")}
    save_file(kept, Path(tmp_path, "model.safetensors"), {"format": "pt"})
    with pytest.raises(ValueError, match="has no weights audio_encoder."):
        AutoCodecModel.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["audio_encoder"]["model_type"] = "mimi"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has model_type 'mimi', which is no codec of this package"):
        AutoCodecModel.from_pretrained(tmp_path)

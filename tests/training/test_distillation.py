"""The teacher of semantic features, over a tiny HuBERT, and a codec that learns from it."""

from __future__ import annotations

import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from codec_lm_hf.training.distillation import SemanticTeacher
from codec_lm_hf.training.losses import distillation_loss
from codec_lm_hf.training.trainer import CodecTrainer
from tests.common.tiny import TINY
from tests.training.helpers import arguments, codec, crops, hubert, whisper, write_recordings


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.05


def test_features_are_what_the_speech_model_says_of_extracted_audio():
    model, audio = hubert().eval(), noise(2, 1, 4000)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True)
    extracted = extractor(list(audio[:, 0].numpy()), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        states = model(extracted, output_hidden_states=True).hidden_states
    features, mask = SemanticTeacher(model)(audio)
    assert mask is None and len(states) == 3
    torch.testing.assert_close(features, (states[0] + states[1] + states[2]) / 3)
    torch.testing.assert_close(SemanticTeacher(model, layer=1)(audio)[0], states[1])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_folder_says_how_its_model_wants_audio(normalize, tmp_path):
    model, audio = hubert(), noise(1, 1, 4000)
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(tmp_path)
    teacher = SemanticTeacher.from_pretrained(tmp_path, layer=2)
    torch.testing.assert_close(teacher(audio)[0], SemanticTeacher(model, 2, normalize)(audio)[0])


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    whisper().save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def test_whisper_hears_half_a_minute_as_it_always_does(whisper_folder):
    audio = noise(1, 1, 30 * 16000)
    spectra = WhisperFeatureExtractor()(audio[0, 0].numpy(), sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        states = whisper().eval().encoder(spectra, output_hidden_states=True).hidden_states
    features, _ = SemanticTeacher.from_pretrained(whisper_folder, layer=1)(audio)
    assert features.shape == (1, 1500, 12)
    torch.testing.assert_close(features, states[1])


def test_whisper_hears_50_frames_of_a_second_and_no_more_than_its_positions(whisper_folder):
    teacher = SemanticTeacher.from_pretrained(whisper_folder)
    assert teacher(noise(2, 1, 16000))[0].shape == (2, 50, 12)
    with pytest.raises(ValueError, match="this teacher hears up to 30 s at once; got 31 s"):
        teacher(noise(1, 1, 31 * 16000))


@pytest.mark.parametrize("name", ["hubert", "whisper"])
def test_rows_of_a_padded_batch_are_heard_alone(name, whisper_folder):
    teacher = SemanticTeacher(hubert()) if name == "hubert" else SemanticTeacher.from_pretrained(whisper_folder)
    audio = noise(2, 1, 4000)
    padding_mask = (torch.arange(4000) < torch.tensor([2500, 4000])[:, None]).long()
    features, mask = teacher(audio, padding_mask)
    for row, length in enumerate((2500, 4000)):
        alone = teacher(audio[row : row + 1, :, :length])[0][0]
        assert mask[row].sum() == len(alone)
        torch.testing.assert_close(features[row, mask[row]], alone)
        assert not features[row, ~mask[row]].any()


def test_of_two_channels_the_mean_is_heard():
    teacher, stereo = SemanticTeacher(hubert()), noise(2, 2, 4000)
    mono = stereo.mean(1, keepdim=True)
    torch.testing.assert_close(teacher(stereo)[0], teacher(mono)[0])
    torch.testing.assert_close(teacher.states(stereo), teacher.states(mono))


def test_a_teacher_never_learns():
    teacher = SemanticTeacher(hubert()).train()
    assert not teacher.model.training
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert not teacher(noise(1, 1, 4000))[0].requires_grad


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="layer=3, but this teacher has hidden states 0 to 2; None is their mean"):
        SemanticTeacher(hubert(), layer=3)


@pytest.mark.parametrize("axis", ["dimension", "time"])
def test_padding_teaches_nothing(axis):
    features, teacher = noise(2, 12, 5), noise(2, 13, 5)
    mask = torch.arange(13) < torch.tensor([[12], [7]])
    loss = distillation_loss(features, teacher, mask, axis)
    if axis == "dimension":
        alone = [
            distillation_loss(features[row, None, :end], teacher[row, None, :end]) for row, end in enumerate((12, 7))
        ]
        torch.testing.assert_close(loss, (alone[0] + alone[1]) / 2)
    features[1, 7:] = teacher[1, 7:] = 9.0
    torch.testing.assert_close(distillation_loss(features, teacher, mask, axis), loss)


@pytest.mark.parametrize("name", ["speechtokenizer", "soundstream_lyra-taught"])
def test_a_codec_draws_near_to_its_teacher(name, tmp_path):
    case = TINY[name]
    torch.manual_seed(0)
    # The distance to the teacher alone.
    weights = {"time_weight": 0.0, "mel_weight": 0.0, "commitment_weight": 0.0, "distillation_weight": 120.0}
    run = CodecTrainer(
        case.model_class(case.config()),
        arguments(tmp_path / "run", max_steps=30, **weights),
        teacher=SemanticTeacher(hubert()),
        train_dataset=crops(write_recordings(tmp_path / "audio")),
    )
    run.train()
    losses = [entry["distillation_loss"] for entry in run.state.log_history if "distillation_loss" in entry]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("name", ["hubert", "whisper"])
def test_what_is_heard_in_decoded_audio_has_a_gradient_and_draws_near_to_the_original(name, whisper_folder, tmp_path):
    teacher = SemanticTeacher(hubert()) if name == "hubert" else SemanticTeacher.from_pretrained(whisper_folder)
    audio = noise(2, 1, 4000).requires_grad_()
    states = teacher.states(audio)
    torch.testing.assert_close(torch.stack(states).mean(0), teacher(audio)[0])
    sum(state.float().square().mean() for state in states).backward()
    assert torch.isfinite(audio.grad).all() and (audio.grad.abs().amax(-1) > 0).all()
    torch.manual_seed(0)
    weights = {"time_weight": 0.0, "mel_weight": 0.0, "commitment_weight": 0.0, "content_weight": 1.0}
    run = CodecTrainer(
        codec(),
        arguments(tmp_path / "run", max_steps=30, **weights),
        teacher=teacher,
        train_dataset=crops(write_recordings(tmp_path / "audio")),
    )
    run.train()
    losses = [entry["content_loss"] for entry in run.state.log_history if "content_loss" in entry]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_a_codec_without_features_has_no_teacher(tmp_path):
    with pytest.raises(ValueError, match="content_weight=0.5 needs a teacher"):
        CodecTrainer(codec(), arguments(tmp_path, content_weight=0.5))
    with pytest.raises(ValueError, match="StftCodecModel has no semantic features to teach; leave out the teacher"):
        CodecTrainer(codec(), arguments(tmp_path), teacher=SemanticTeacher(hubert()))
    untaught = TINY["soundstream_lyra"].model()
    with pytest.raises(ValueError, match="LyraCodecModel has no semantic features to teach"):
        CodecTrainer(untaught, arguments(tmp_path), teacher=SemanticTeacher(hubert()))
    with pytest.raises(ValueError, match="had no teacher of content: its configuration has no semantic_hidden_size"):
        untaught.semantic_features(torch.zeros(1, 1, 3, dtype=torch.long))


def test_a_teacher_hears_audio_of_the_codecs_rate(tmp_path):
    teacher = SemanticTeacher(hubert(), sampling_rate=24000)
    with pytest.raises(ValueError, match="hears audio of 24000 Hz, and this StftCodecModel is for 16000 Hz"):
        CodecTrainer(codec(), arguments(tmp_path, content_weight=0.5), teacher=teacher)

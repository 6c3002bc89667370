"""What the losses must be: zero for equal signals, with gradients that point home, equal to hand-computed values."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
import yaml

from codec_lm_hf.evaluation.metrics import si_sdr
from codec_lm_hf.training.losses import (
    MultiScaleMelLoss,
    MultiScaleSpectralLoss,
    MultiScaleStftLoss,
    adversarial_loss,
    discriminator_loss,
    distillation_loss,
    feature_matching_loss,
    shape_loss,
    si_sdr_loss,
    time_l1,
)
from codec_lm_hf.training.perceptual import PerceptualDisturbance
from codec_lm_hf.training.spectrograms import Spectrogram
from codec_lm_hf.training.trainer import CodecTrainingArguments

RATE = 16000
LOSSES = {"time": time_l1, "mel": MultiScaleMelLoss(RATE), "stft": MultiScaleStftLoss()}
LOSSES["perceptual"] = PerceptualDisturbance(RATE)
LOSSES["shape"] = functools.partial(shape_loss, window_sizes=(50, 20))
# The losses of each paper, as its page gives them.
SECTIONS = re.findall(
    r"^## (.+?)\n.*?```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs/losses.md").read_text(), re.M | re.S
)
PAPERS = {name: yaml.safe_load(block) for name, block in SECTIONS}
for name, settings in PAPERS.items():
    LOSSES[f"mel of {name}"] = MultiScaleMelLoss(RATE, **settings["mel_loss_kwargs"])
    if "stft_loss_kwargs" in settings:
        LOSSES[f"stft of {name}"] = MultiScaleStftLoss(**settings["stft_loss_kwargs"])


@pytest.fixture
def pair():
    target = torch.randn(2, 2, 4000) * 0.1
    return target + 0.05 * torch.randn_like(target), target


@pytest.mark.parametrize("name", LOSSES)
def test_reconstruction_losses_are_zero_only_for_equal_audio(name, pair):
    audio, target = pair
    assert LOSSES[name](target, target) == 0
    assert LOSSES[name](audio, target) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_reconstruction_losses_grow_with_the_error(name, pair):
    audio, target = pair
    near = target + 0.1 * (audio - target)
    assert LOSSES[name](near, target) < LOSSES[name](audio, target)


# Not "stft": spectral convergence is a ratio of norms over the whole batch.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "stft"])
def test_reconstruction_losses_are_means_over_the_batch(name, pair):
    audio, target = pair
    rows = [LOSSES[name](audio[row : row + 1], target[row : row + 1]) for row in range(2)]
    torch.testing.assert_close(LOSSES[name](audio, target), torch.stack(rows).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_on_silence(name):
    """Digital silence is common in speech data, and has no logarithm."""
    audio = torch.zeros(1, 1, 4000, requires_grad=True)
    for target in (torch.zeros(1, 1, 4000), torch.randn(1, 1, 4000)):
        (gradient,) = torch.autograd.grad(LOSSES[name](audio, target), audio)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
def test_descending_the_gradient_lowers_the_loss(name, pair):
    audio, target = pair[0].clone().requires_grad_(), pair[1]
    before = LOSSES[name](audio, target)
    (gradient,) = torch.autograd.grad(before, audio)
    with torch.no_grad():
        after = LOSSES[name](audio - 1e-3 * gradient / gradient.norm(), target)
    assert after < before


def test_mel_loss_of_a_louder_signal_is_its_logarithm():
    target = torch.randn(1, 1, 4000)
    torch.testing.assert_close(LOSSES["mel"](10 * target, target), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_mel_scales_per_step_draws_in_training_and_uses_all_in_evaluation(pair):
    audio, target = pair
    few = MultiScaleMelLoss(RATE, scales_per_step=1)
    drawn = {round(float(few(audio, target)), 6) for _ in range(40)}
    assert len(drawn) == len(few.window_sizes)
    with torch.no_grad():
        assert few(audio, target) == LOSSES["mel"](audio, target)
    whole = float(LOSSES["mel"](audio, target))
    assert sum(drawn) / len(drawn) == pytest.approx(whole, rel=1e-4)


def test_scale_weights_are_those_of_a_sum(pair):
    audio, target = pair
    singles = [MultiScaleStftLoss([size])(audio, target) for size in (256, 512)]
    weighted = MultiScaleStftLoss([256, 512], scale_weights=[3.0, 0.5])
    torch.testing.assert_close(weighted(audio, target), 3 * singles[0] + 0.5 * singles[1])


def test_a_drawn_scale_stands_for_the_weighted_sum(pair):
    audio, target = pair
    spectrograms = [Spectrogram(size) for size in (128, 256, 512)]
    options = {"terms": {"linear": 1.0}, "scale_weights": [1.0, 2.0, 4.0]}
    whole = MultiScaleSpectralLoss(spectrograms, **options)(audio, target)
    few = MultiScaleSpectralLoss(spectrograms, scales_per_step=1, **options)
    drawn = {round(float(few(audio, target)), 6) for _ in range(40)}
    assert len(drawn) == 3
    assert sum(drawn) / 3 == pytest.approx(float(whole), rel=1e-4)


def test_terms_are_what_they_say(pair):
    audio, target = pair
    spectrogram = Spectrogram(256, padding="reflect")
    ours, theirs = spectrogram(audio), spectrogram(target)
    logs = ours.log10() - theirs.log10()
    expected = {
        "linear": (ours - theirs).abs().mean(),
        "convergence": (ours - theirs).norm() / theirs.norm(),
        "log": logs.abs().mean(),
        "log_square": logs.square().mean(),
    }
    for term, value in expected.items():
        torch.testing.assert_close(MultiScaleSpectralLoss([spectrogram], {term: 2.0})(audio, target), 2 * value)
    together = MultiScaleSpectralLoss([spectrogram], dict.fromkeys(expected, 1.0))
    torch.testing.assert_close(together(audio, target), sum(expected.values()))


def test_spectra_are_compared_over_the_frames_that_both_have(pair):
    """A codec that drops the tail is not punished for it."""
    audio, target = pair
    loss = MultiScaleMelLoss(RATE, [256], [40])
    # The last frames of the shorter one see its padding.
    assert loss(target[..., :3800], target) < 0.2 * loss(audio, target)
    longer = torch.cat([audio, torch.randn(2, 2, 640)], dim=-1)
    torch.testing.assert_close(loss(longer[..., :4000], target), loss(audio, target))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MultiScaleMelLoss(RATE, window_sizes=(256, 512), num_mels=(20,)), "num_mels .*2 and 1"),
        (lambda: MultiScaleMelLoss(RATE, (256,), (20,), hop_lengths=(64, 32)), "hop_lengths .*1 and 2"),
        (lambda: MultiScaleStftLoss((256, 512), n_ffts=(512,)), "n_ffts .*2 and 1"),
        (lambda: MultiScaleStftLoss((256, 512), scale_weights=(1,)), "scale_weights must have 2 entries, got 1"),
        (lambda: MultiScaleStftLoss(terms={"log": 1, "phase": 1}), "phase"),
        (lambda: MultiScaleStftLoss(terms={}), "none"),
        (lambda: MultiScaleMelLoss(RATE, scales_per_step=0), "scales_per_step must be at least 1, got 0"),
        (lambda: distillation_loss(torch.ones(1, 2, 3), torch.ones(1, 2, 3), axis="frequency"), "frequency"),
    ],
)
def test_impossible_arguments_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_the_page_has_every_paper_and_its_settings_exist(tmp_path):
    assert set(PAPERS) == {"DAC", "HiFi-Codec", "SpeechTokenizer", "AudioDec", "FunCodec"}
    for settings in PAPERS.values():
        CodecTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_si_sdr_loss_is_the_metric_with_its_sign_changed():
    target = torch.randn(2, 1, 4000)
    audio = target + 0.3 * torch.randn(2, 1, 4000) + 0.1
    metric = sum(si_sdr(audio[row, 0].double().numpy(), target[row, 0].double().numpy()) for row in range(2)) / 2
    assert float(si_sdr_loss(audio, target)) == pytest.approx(-metric, abs=1e-3)
    torch.testing.assert_close(si_sdr_loss(7 * audio, target), si_sdr_loss(audio, target))


def test_si_sdr_loss_has_finite_gradients_for_silence_and_copies():
    speech, silence = torch.randn(1, 1, 400), torch.zeros(1, 1, 400)
    for audio, target in [(speech, speech), (silence, silence), (speech, silence), (silence, speech)]:
        audio = audio.clone().requires_grad_()
        loss = si_sdr_loss(audio, target)
        (gradient,) = torch.autograd.grad(loss, audio)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_si_sdr_loss_of_audio_that_has_nothing_of_the_target_is_80_db():
    time = torch.arange(400) * 2 * torch.pi / 400
    loss = si_sdr_loss(time.sin().expand(1, 1, -1), time.cos().expand(1, 1, -1))
    assert float(loss) == pytest.approx(80, abs=0.1)


def test_shape_loss_compares_envelopes():
    """Neither the sign nor the place within a window matters; the peak of each window does."""
    target = torch.zeros(1, 1, 8)
    target[..., 1], target[..., 6] = 0.5, -1.0
    moved = torch.zeros(1, 1, 8)
    moved[..., 3], moved[..., 4] = -0.5, 1.0
    assert shape_loss(moved, target, [4]) == 0
    torch.testing.assert_close(shape_loss(0 * target, target, [4, 8]), torch.tensor((0.75 + 1.0) / 2))


def test_distillation_is_least_for_features_that_point_as_the_teachers_do():
    teacher = torch.randn(2, 12, 5)
    least = -torch.nn.functional.logsigmoid(torch.tensor(1.0))
    # Over time, each dimension may have its own scale; the codec may have a frame more.
    scaled = torch.cat([teacher * torch.rand(1, 1, 5), torch.randn(2, 1, 5)], dim=1)
    torch.testing.assert_close(distillation_loss(scaled, teacher), least)
    assert distillation_loss(torch.randn(2, 12, 5), teacher) > least
    # Frame by frame the distance counts too.
    torch.testing.assert_close(distillation_loss(teacher, teacher, axis="time"), least)
    torch.testing.assert_close(distillation_loss(3 * teacher, teacher, axis="time"), least + 2 * teacher.abs().mean())


@pytest.mark.parametrize(
    ("kind", "real", "fake", "expected"),
    [
        ("hinge", 2.0, -3.0, 0.0),
        ("hinge", 0.25, 0.5, 0.75 + 1.5),
        ("least_squares", 1.0, 0.0, 0.0),
        ("least_squares", 0.5, 2.0, 0.25 + 4.0),
    ],
)
def test_discriminator_loss(kind, real, fake, expected):
    """Parts of different shapes count the same."""
    shapes = [(2, 1, 7), (2, 1, 3, 5)]
    loss = discriminator_loss(kind, [torch.full(s, real) for s in shapes], [torch.full(s, fake) for s in shapes])
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize(
    ("kind", "fake", "expected"),
    [("hinge", 1.5, 0.0), ("hinge", -1.0, 2.0), ("least_squares", 1.0, 0.0), ("least_squares", -1.0, 4.0)],
)
def test_adversarial_loss(kind, fake, expected):
    loss = adversarial_loss(kind, [torch.full((2, 1, 7), fake), torch.full((2, 1, 3), fake)])
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize(
    "loss", [lambda kind: adversarial_loss(kind, []), lambda kind: discriminator_loss(kind, [], [])]
)
def test_unknown_kind_is_refused(loss):
    with pytest.raises(ValueError, match="wasserstein"):
        loss("wasserstein")


@pytest.mark.parametrize("kind", ["hinge", "least_squares"])
def test_sums_are_means_times_the_number_of_terms(kind):
    real, fake = ([torch.randn(2, 1, size) for size in (7, 3, 5)] for _ in range(2))
    maps = [[part, 2 * part] for part in real], [[part, 3 * part] for part in fake]
    torch.testing.assert_close(adversarial_loss(kind, fake, "sum"), 3 * adversarial_loss(kind, fake))
    torch.testing.assert_close(discriminator_loss(kind, real, fake, "sum"), 3 * discriminator_loss(kind, real, fake))
    torch.testing.assert_close(feature_matching_loss(*maps, reduction="sum"), 6 * feature_matching_loss(*maps))
    with pytest.raises(ValueError, match="reduction must be .*median"):
        adversarial_loss(kind, fake, "median")


def test_plain_feature_matching_is_the_mean_absolute_difference():
    real, fake = torch.randn(2, 3, 7), torch.randn(2, 3, 7, requires_grad=True)
    loss = feature_matching_loss([[real]], [[fake]], relative=False)
    (gradient,) = torch.autograd.grad(loss, fake)
    expected = (real - fake).abs().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, fake)[0])


def test_feature_matching_is_relative_to_the_real_map_and_has_no_gradient_to_it():
    real = torch.tensor([[2.0, -4.0]], requires_grad=True)
    fake = torch.tensor([[5.0, -4.0]], requires_grad=True)
    loss = feature_matching_loss([[real], [real]], [[fake], [real.detach()]])
    torch.testing.assert_close(loss, torch.tensor((1.5 / 3.0 + 0.0) / 2))
    loss.backward()
    assert real.grad is None and fake.grad is not None
    louder = feature_matching_loss([[10 * real], [real]], [[10 * fake], [real.detach()]])
    torch.testing.assert_close(louder, loss)


def test_adversarial_losses_are_computed_in_float32():
    logits, maps = [torch.randn(2, 1, 7, dtype=torch.bfloat16)], [[torch.randn(2, 3, 7, dtype=torch.bfloat16)]]
    for loss in (
        adversarial_loss("hinge", logits),
        discriminator_loss("least_squares", logits, logits),
        feature_matching_loss(maps, maps),
        feature_matching_loss(maps, maps, relative=False),
    ):
        assert loss.dtype == torch.float32

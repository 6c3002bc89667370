"""What the losses must be: zero for equal signals, with gradients that point home, equal to hand-computed values."""

from __future__ import annotations

import pytest
import torch

from codec_lm_hf.training.losses import (
    MultiScaleMelLoss,
    MultiScaleStftLoss,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    time_l1,
)

RATE = 16000
LOSSES = {"time": time_l1, "mel": MultiScaleMelLoss(RATE), "stft": MultiScaleStftLoss()}


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
@pytest.mark.parametrize("name", ["time", "mel"])
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


def test_mel_loss_refuses_sizes_without_bands():
    with pytest.raises(ValueError, match="2 and 1"):
        MultiScaleMelLoss(RATE, window_sizes=(256, 512), num_mels=(20,))


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
    ):
        assert loss.dtype == torch.float32

"""The balancer; `tests/parity` compares it with the original's numbers."""

from __future__ import annotations

import pytest
import torch

from codec_lm_hf.training.balancer import Balancer


@pytest.fixture
def audio():
    return torch.randn(3, 1, 50, requires_grad=True)


def losses_of(audio):
    return {"near": audio.square().mean(), "far": 1000 * (audio - 1).abs().mean()}


def test_shares_do_not_depend_on_the_scale_of_a_loss(audio):
    one = Balancer({"near": 1, "far": 3}).gradient(losses_of(audio), audio)
    scaled = {name: 1e4 * loss for name, loss in losses_of(audio).items()}
    torch.testing.assert_close(Balancer({"near": 1, "far": 3}).gradient(scaled, audio), one)


def test_each_loss_gets_its_share_of_the_total_norm(audio):
    for name, share in (("near", 0.25), ("far", 0.75)):
        balancer = Balancer({"near": 1, "far": 3}, total_norm=2.0)
        combined = balancer.gradient(losses_of(audio), audio)
        other = "far" if name == "near" else "near"
        (gradient,) = torch.autograd.grad(losses_of(audio)[other], audio)
        rest = combined - gradient / gradient.flatten(1).norm(dim=1).mean() * 2.0 * (1 - share)
        torch.testing.assert_close(rest.flatten(1).norm(dim=1).mean(), torch.tensor(2.0 * share))


def test_losses_that_are_absent_leave_their_share_to_the_others(audio):
    losses = {"near": losses_of(audio)["near"]}
    alone = Balancer({"near": 1}).gradient(losses, audio)
    torch.testing.assert_close(Balancer({"near": 1, "far": 3}).gradient(losses, audio), alone)


def test_without_rescaling_it_is_the_weighted_sum(audio):
    combined = Balancer({"near": 2, "far": 3}, rescale_grads=False).gradient(losses_of(audio), audio)
    losses = losses_of(audio)
    (expected,) = torch.autograd.grad(2 * losses["near"] + 3 * losses["far"], audio)
    torch.testing.assert_close(combined, expected)


def test_ratios_say_who_dominates(audio):
    balancer = Balancer({"near": 1, "far": 1})
    balancer.gradient(losses_of(audio), audio)
    assert sum(balancer.ratios.values()) == pytest.approx(1)
    assert balancer.ratios["far"] > 0.9


def test_a_loss_without_gradient_gives_no_nan(audio):
    combined = Balancer({"near": 1, "far": 1}).gradient({"near": 0 * audio.sum(), "far": audio.sum()}, audio)
    assert torch.isfinite(combined).all()


def test_unknown_loss_is_named(audio):
    with pytest.raises(ValueError, match=r"\['far'\] have no weight.*\['near'\]"):
        Balancer({"near": 1}).gradient(losses_of(audio), audio)


def test_state_goes_on_where_it_was(audio):
    first = Balancer({"near": 1, "far": 3})
    for factor in (1.0, 5.0):
        first.gradient({name: factor * loss for name, loss in losses_of(audio).items()}, audio)
    second = Balancer({"near": 1, "far": 3})
    second.load_state_dict(first.state_dict())
    assert torch.equal(*(balancer.gradient(losses_of(audio), audio) for balancer in (first, second)))

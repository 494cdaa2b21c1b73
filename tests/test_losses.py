"""Losses against closed forms on hand-made scores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wgan_cli.losses import Gan, Hinge, Loss, Wasserstein

REAL = [2.0, -1.0, 0.5, 3.5]
FAKE = [-2.0, 0.25, 1.5, -0.75]
LOSSES = [Wasserstein(), Hinge(), Gan(), Gan(saturating=True)]


def scores(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def critic_gradients(loss: Loss) -> tuple[list[float], list[float]]:
    real, fake = scores(REAL), scores(FAKE)
    terms = loss.critic(real, fake)
    (terms[0] + terms[1]).backward()
    assert real.grad is not None and fake.grad is not None
    return real.grad.tolist(), fake.grad.tolist()


def generator_gradient(loss: Loss) -> list[float]:
    fake = scores(FAKE)
    loss.generator(fake).backward()
    assert fake.grad is not None
    return fake.grad.tolist()


def test_wasserstein_terms_are_the_means_with_opposite_signs():
    real, fake = Wasserstein().critic(scores(REAL), scores(FAKE))
    assert real.item() == pytest.approx(-1.25)
    assert fake.item() == pytest.approx(-0.25)


def test_wasserstein_gradients_are_constant():
    real, fake = critic_gradients(Wasserstein())
    assert real == pytest.approx([-0.25] * 4)
    assert fake == pytest.approx([0.25] * 4)
    assert generator_gradient(Wasserstein()) == pytest.approx([-0.25] * 4)


def test_wasserstein_critic_is_unmoved_by_a_shift_of_all_scores():
    real, fake = Wasserstein().critic(scores(REAL), scores(FAKE))
    moved = Wasserstein().critic(scores([x + 7 for x in REAL]), scores([x + 7 for x in FAKE]))
    assert (moved[0] + moved[1]).item() == pytest.approx((real + fake).item())


def test_hinge_terms_count_only_what_lies_inside_the_margins():
    real, fake = Hinge().critic(scores(REAL), scores(FAKE))
    assert real.item() == pytest.approx((0 + 2 + 0.5 + 0) / 4)
    assert fake.item() == pytest.approx((0 + 1.25 + 2.5 + 0.25) / 4)


def test_hinge_gradients_vanish_outside_the_margins():
    real, fake = critic_gradients(Hinge())
    assert real == pytest.approx([0, -0.25, -0.25, 0])
    assert fake == pytest.approx([0, 0.25, 0.25, 0.25])


def test_hinge_generator_has_no_margin():
    assert Hinge().generator(scores(FAKE)).item() == pytest.approx(0.25)
    assert generator_gradient(Hinge()) == pytest.approx([-0.25] * 4)


@pytest.mark.parametrize("saturating", [False, True])
def test_gan_critic_is_cross_entropy_on_logits(saturating: bool):
    real, fake = Gan(saturating).critic(scores(REAL), scores(FAKE))
    assert real.item() == pytest.approx(mean([-math.log(sigmoid(x)) for x in REAL]))
    assert fake.item() == pytest.approx(mean([-math.log(1 - sigmoid(x)) for x in FAKE]))


@pytest.mark.parametrize("saturating", [False, True])
def test_gan_critic_gradients_are_probability_errors(saturating: bool):
    real, fake = critic_gradients(Gan(saturating))
    assert real == pytest.approx([-(1 - sigmoid(x)) / 4 for x in REAL])
    assert fake == pytest.approx([sigmoid(x) / 4 for x in FAKE])


def test_non_saturating_generator_maximises_the_log_probability_of_real():
    value = Gan().generator(scores(FAKE)).item()
    assert value == pytest.approx(mean([-math.log(sigmoid(x)) for x in FAKE]))
    assert generator_gradient(Gan()) == pytest.approx([-(1 - sigmoid(x)) / 4 for x in FAKE])


def test_saturating_generator_minimises_the_log_probability_of_fake():
    loss = Gan(saturating=True)
    value = loss.generator(scores(FAKE)).item()
    assert value == pytest.approx(mean([math.log(1 - sigmoid(x)) for x in FAKE]))
    assert generator_gradient(loss) == pytest.approx([-sigmoid(x) / 4 for x in FAKE])


def test_saturating_is_the_game_whose_losses_cancel():
    loss = Gan(saturating=True)
    _, fake_term = loss.critic(scores(REAL), scores(FAKE))
    assert loss.generator(scores(FAKE)).item() == pytest.approx(-fake_term.item())


def test_gan_stays_finite_on_extreme_scores():
    extreme = scores([-1e4, 1e4])
    for loss in (Gan(), Gan(saturating=True)):
        terms = [*loss.critic(extreme, extreme), loss.generator(extreme)]
        assert all(term.isfinite() for term in terms)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_gives_scalars_and_means_over_the_batch(loss: Loss):
    once = [*loss.critic(scores(REAL), scores(FAKE)), loss.generator(scores(FAKE))]
    twice = [*loss.critic(scores(REAL * 2), scores(FAKE * 2)), loss.generator(scores(FAKE * 2))]
    assert all(term.shape == () for term in once)
    assert [t.item() for t in once] == pytest.approx([t.item() for t in twice])


@pytest.mark.parametrize("loss", LOSSES)
def test_every_critic_term_depends_on_its_own_scores_only(loss: Loss):
    real, fake = loss.critic(scores(REAL), scores(FAKE))
    assert loss.critic(scores(REAL), scores([9.0]))[0].item() == real.item()
    assert loss.critic(scores([9.0]), scores(FAKE))[1].item() == fake.item()

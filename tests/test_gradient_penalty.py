"""The gradient penalty against slopes and derivatives from other methods."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import adam_updates
from torch import Tensor, nn

from wgan_cli.constraints import GradientPenalty
from wgan_cli.models import dcgan, lipschitz, mlp
from wgan_cli.randomness import Draws, Stream

pytestmark = pytest.mark.usefixtures("one_seeded_thread")

CPU = torch.device("cpu")
DRAWS = Draws(3, Stream.PENALTY, step=5, inner=2)


class Smooth(nn.Module):
    """A critic with second derivatives, for which finite differences are exact enough."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
        self.seen: list[Tensor] = []

    def forward(self, samples: Tensor) -> Tensor:
        self.seen.append(samples.detach().clone())
        return self.layers(samples).squeeze(1)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        return (self.slopes[labels] * samples).sum(1)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(shape), 2 * torch.randn(shape)


def by_hand(
    critic: nn.Module, real: Tensor, fake: Tensor, weight: float, target: float, one_sided: bool
) -> float:
    """The penalty computed sample by sample, with slopes from central differences in float64."""
    total, step = 0.0, 1e-5
    for row, share in enumerate(DRAWS.uniform((len(real),), CPU).double().tolist()):
        point = share * real[row] + (1 - share) * fake[row]
        squares = 0.0
        for index in range(point.numel()):
            aside = torch.zeros(point.numel(), dtype=torch.float64)
            aside[index] = step
            ahead, behind = point + aside.view_as(point), point - aside.view_as(point)
            with torch.no_grad():
                slope = float(critic(ahead[None]) - critic(behind[None])) / (2 * step)
            squares += slope**2
        excess = squares**0.5 - target
        total += (max(excess, 0.0) if one_sided else excess) ** 2
    return weight * total / len(real)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("target", [0.0, 0.4, 1.0])
def test_it_is_the_penalty_of_the_paper(target: float, one_sided: bool):
    critic = Smooth().double()
    real, fake = (x.double() for x in pair(7, 2, 3))
    penalty = GradientPenalty(7.0, target, one_sided).penalty(critic, real, fake, DRAWS)
    expected = by_hand(critic, real, fake, 7.0, target, one_sided)
    assert penalty.item() == pytest.approx(expected, rel=1e-7, abs=1e-12)
    if not one_sided:
        assert expected > 0.01


def test_only_the_two_sided_penalty_affects_slopes_below_the_target():
    critic = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0))
    for slope, both, one in (([0.3, 0.4], 0.25, 0.0), ([3.0, 4.0], 16.0, 16.0)):
        with torch.no_grad():
            critic[0].weight.copy_(torch.tensor([slope]))
        real, fake = pair(5, 2)
        two_sided = GradientPenalty(1.0).penalty(critic, real, fake, DRAWS)
        assert two_sided.item() == pytest.approx(both)
        one_sided = GradientPenalty(1.0, one_sided=True).penalty(critic, real, fake, DRAWS)
        assert one_sided.item() == pytest.approx(one, abs=1e-12)


def test_each_point_lies_at_its_own_position_between_its_pair():
    critic = Smooth()
    real, fake = pair(50, 2, 3)
    GradientPenalty().penalty(critic, real, fake, DRAWS)
    (points,) = critic.seen
    shares = ((points - fake) / (real - fake)).flatten(1)
    # The same fraction in all dimensions of a sample, a different one for each sample.
    assert torch.allclose(shares, shares[:, :1].expand_as(shares), atol=1e-3)
    assert 0 <= float(shares.min()) < 0.1
    assert 0.9 < float(shares.max()) <= 1.001
    assert len(shares[:, 0].unique()) == 50


def test_points_depend_only_on_the_draws():
    critic = Smooth()
    real, fake = pair(4, 6)
    torch.manual_seed(1)
    GradientPenalty().penalty(critic, real, fake, DRAWS)
    torch.manual_seed(2)
    GradientPenalty().penalty(critic, real, fake, DRAWS)
    GradientPenalty().penalty(critic, real, fake, Draws(3, Stream.PENALTY, step=5, inner=3))
    assert torch.equal(critic.seen[0], critic.seen[1])
    assert not torch.equal(critic.seen[0], critic.seen[2])


def test_its_gradient_is_that_of_finite_differences():
    critic = Smooth().double()
    real, fake = (x.double() for x in pair(5, 2, 3))
    constraint = GradientPenalty(10.0, 0.2)
    constraint.penalty(critic, real, fake, DRAWS).backward()
    step, largest = 1e-6, 0.0
    for parameter in critic.parameters():
        # The last bias does not affect the slope, so it has no gradient.
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for index in range(parameter.numel()):
            sides = []
            for sign in (1, -1):
                moved = copy.deepcopy(critic)
                bf16_copy = next(
                    q
                    for p, q in zip(critic.parameters(), moved.parameters(), strict=True)
                    if p is parameter
                )
                bf16_copy.data.view(-1)[index] += sign * step
                sides.append(float(constraint.penalty(moved, real, fake, DRAWS).detach()))
            slope = (sides[0] - sides[1]) / (2 * step)
            assert float(gradient.view(-1)[index]) == pytest.approx(slope, rel=1e-5, abs=1e-7)
            largest = max(largest, abs(slope))
    assert largest > 0.1


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_a_flat_critic_gives_finite_numbers(target: float):
    critic = mlp.Critic((3,), width=4, depth=1)
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    penalty = GradientPenalty(10.0, target).penalty(critic, *pair(4, 3), DRAWS)
    assert penalty.item() == 10.0 * target**2
    penalty.backward()
    for parameter in critic.parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all())


def test_it_is_float32_under_bfloat16():
    critic = mlp.Critic((1, 8, 8), width=32)
    real, fake = pair(16, 1, 8, 8)
    constraint = GradientPenalty()
    outside = constraint.penalty(critic, real, fake, DRAWS)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic.layers[0](real.flatten(1)).dtype == torch.bfloat16
        inside = constraint.penalty(critic, real, fake, DRAWS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_labels_are_passed_on_row_by_row():
    critic = Conditional()
    real, fake = pair(4, 2)
    labels = torch.tensor([0, 1, 1, 0])
    penalty = GradientPenalty(1.0).penalty(critic, real, fake, DRAWS, labels)
    # Slopes 5 and 2.
    assert penalty.item() == pytest.approx((16 + 1 + 1 + 16) / 4)


def test_the_critic_gets_one_gradient_from_loss_and_penalty_and_the_samples_none():
    critic = dcgan.Critic((1, 8, 8), width=4)
    real, fake = pair(6, 1, 8, 8)
    penalty = GradientPenalty().penalty(critic, real, fake, DRAWS)
    penalty.backward()
    assert real.grad is None and fake.grad is None
    assert not real.requires_grad and not fake.requires_grad
    weights = [m.weight for m in critic.modules() if isinstance(m, nn.Conv2d)]
    assert all(float(weight.grad.abs().max()) > 0 for weight in weights)


@pytest.mark.parametrize("model", ["mlp", "lipschitz"])
def test_it_pulls_slopes_to_its_target(model: str):
    make = {"mlp": mlp.Critic, "lipschitz": lipschitz.Critic}[model]
    critic = make((4,), width=16, depth=2)
    generator = mlp.Generator(3, (4,), width=16, depth=2)
    constraint = GradientPenalty(10.0)
    updates = adam_updates(generator, critic, constraint)
    penalties = []
    for step in range(150):
        real = Draws(1, Stream.POINTS, step).normal((32, 4), CPU) + 3
        latent = Draws(1, Stream.CRITIC_NOISE, step).normal((32, 3), CPU)
        terms = updates.critic_update(real, latent, Draws(1, Stream.PENALTY, step))
        penalties.append(float(terms[4]))
    # Slopes end slightly above 1, because the loss increases them.
    assert sum(penalties[-20:]) / 20 < penalties[0] / 2


@pytest.mark.parametrize(
    "settings", [{"weight": 0.0}, {"weight": -1.0}, {"target": -0.1}, {"target": float("nan")}]
)
def test_invalid_settings_are_refused(settings: dict[str, float]):
    with pytest.raises(ValueError, match="must be"):
        GradientPenalty(**settings)

"""Orthogonal regularisation: its value, its gradient and its report."""

from __future__ import annotations

import pytest
import torch
from conftest import adam_updates
from torch import Tensor, nn

from wgan_cli.constraints import OrthogonalRegularization
from wgan_cli.metrics.lipschitz import gradient_norms
from wgan_cli.models import dcgan, mlp
from wgan_cli.randomness import Draws, Stream

pytestmark = pytest.mark.usefixtures("one_seeded_thread")

CPU = torch.device("cpu")
IMAGE = (1, 16, 16)
DRAWS = Draws(0, Stream.PENALTY)


def penalty_of(critic: nn.Module, weight: float) -> Tensor:
    nothing = torch.zeros(2, *IMAGE)
    return OrthogonalRegularization(weight).penalty(critic, nothing, nothing, DRAWS)


def squared_singular_values(layer: nn.Module) -> Tensor:
    return torch.linalg.svdvals(layer.weight.detach().double().flatten(1)) ** 2


def test_it_is_the_sum_over_layers_by_singular_values():
    # |W W^T - I|^2 is the sum of (s^2 - 1)^2 over the singular values, of the wide and the tall.
    critic = nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.Linear(9, 5), nn.BatchNorm1d(5), nn.Linear(5, 9), nn.Linear(9, 1)
    )
    layers = [critic[i] for i in (0, 1, 3, 4)]
    expected = sum(float(((squared_singular_values(layer) - 1) ** 2).sum()) for layer in layers)
    assert penalty_of(critic, 3.0).item() == pytest.approx(3 * expected, rel=1e-5)
    reported = OrthogonalRegularization(3.0).report(critic)
    roots = [float(((squared_singular_values(m) - 1) ** 2).mean() ** 0.5) for m in layers]
    assert reported == {"critic/orthogonality": pytest.approx(sum(roots) / 4, rel=1e-5)}


def test_orthonormal_weights_cost_nothing():
    critic = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
    for layer in critic:
        nn.init.orthogonal_(layer.weight)
    assert penalty_of(critic, 1.0).item() < 1e-10
    assert OrthogonalRegularization(1.0).report(critic)["critic/orthogonality"] < 1e-5


def test_it_is_float32_under_bfloat16():
    critic = nn.Linear(200, 50)
    with torch.autocast("cpu", torch.bfloat16):
        inside = penalty_of(critic, 1.0)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, penalty_of(critic, 1.0))


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_the_deviation_falls_under_it(model: str):
    generator = mlp.Generator(3, IMAGE, width=8)
    critic = {"mlp": mlp.Critic, "dcgan": dcgan.Critic}[model](IMAGE, width=16)
    constraint = OrthogonalRegularization(10.0)
    updates = adam_updates(generator, critic, constraint)
    seen = [constraint.report(critic)["critic/orthogonality"]]
    for step in range(200):
        real = Draws(1, Stream.POINTS, step).uniform((8, *IMAGE), CPU) - 1
        latent = Draws(1, Stream.CRITIC_NOISE, step).normal((8, 3), CPU)
        updates.critic_update(real, latent, Draws(1, Stream.PENALTY, step))
        if step % 50 == 49:
            seen.append(constraint.report(critic)["critic/orthogonality"])
    assert max(seen[1:]) < 0.5 * seen[0]
    if model == "mlp":
        here, there = torch.randn(100, *IMAGE), torch.randn(100, *IMAGE)
        assert float(gradient_norms(critic, here, there, DRAWS).max()) < 2


def test_report_changes_nothing():
    critic = mlp.Critic((4,), width=8)
    before = [p.detach().clone() for p in critic.parameters()]
    OrthogonalRegularization(1.0).report(critic)
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters(), strict=True))
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_not_positive_is_refused(weight: float):
    with pytest.raises(ValueError, match="weight"):
        OrthogonalRegularization(weight)

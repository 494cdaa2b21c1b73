"""Every number against an independent reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from wgan_cli.metrics.lipschitz import gradient_norms
from wgan_cli.metrics.neighbours import precision_recall
from wgan_cli.metrics.wasserstein import exact_wasserstein
from wgan_cli.randomness import Draws, Stream


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def reference_precision_recall(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radii(samples: np.ndarray) -> list[float]:
        found = []
        for i, sample in enumerate(samples):
            others = [distance(sample, other) for j, other in enumerate(samples) if i != j]
            found.append(sorted(others)[k - 1])
        return found

    def covered(samples: np.ndarray, centres: np.ndarray) -> float:
        reach = radii(centres)
        inside = [
            any(distance(x, c) <= r for c, r in zip(centres, reach, strict=True)) for x in samples
        ]
        return sum(inside) / len(inside)

    return covered(fake, real), covered(real, fake)


@pytest.mark.parametrize("seed", range(3))
def test_exact_wasserstein_is_scipys_in_one_dimension(seed: int):
    first, second = normal(50, 1, seed=seed), 2 * normal(50, 1, seed=seed + 10) + 1
    expected = wasserstein_distance(first.flatten().numpy(), second.flatten().numpy())
    assert exact_wasserstein(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", range(1, 7))
def test_exact_wasserstein_is_the_best_of_all_permutations(n: int):
    first, second = normal(n, 2, 3, seed=n), normal(n, 2, 3, seed=n + 10)
    best = min(
        float((first - second[list(order)]).flatten(1).norm(dim=1).mean())
        for order in itertools.permutations(range(n))
    )
    assert exact_wasserstein(first, second) == pytest.approx(best, rel=1e-12)


def test_exact_wasserstein_of_point_masses_is_their_distance():
    theta = torch.tensor([3.0, -4.0])
    assert exact_wasserstein(torch.zeros(7, 2), theta.expand(7, 2)) == pytest.approx(5.0)


def test_exact_wasserstein_of_a_shifted_sample_is_the_shift():
    sample = normal(40, 1, 4, 4)
    shift = torch.full((1, 4, 4), 0.25, dtype=torch.float64)
    assert exact_wasserstein(sample, sample + shift) == pytest.approx(1.0, rel=1e-9)


def test_exact_wasserstein_is_zero_for_the_same_sample_in_another_order():
    sample = normal(40, 3)
    assert exact_wasserstein(sample, sample.flip(0)) == 0.0


def test_exact_wasserstein_resolves_a_tiny_shift_of_far_points():
    sample = 100 * normal(40, 3).float() + 1000
    moved = sample.double() + 1e-3
    assert exact_wasserstein(sample, moved) == pytest.approx(3**0.5 * 1e-3, rel=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_samples_are_refused(broken: float):
    good, bad = torch.zeros(8, 2), torch.zeros(8, 2)
    bad[3, 1] = broken
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="NaN"):
            exact_wasserstein(*pair)
        with pytest.raises(ValueError, match="NaN"):
            precision_recall(*pair)


def test_unequal_or_empty_samples_are_refused():
    with pytest.raises(ValueError, match="one size"):
        exact_wasserstein(torch.zeros(4, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="one size"):
        exact_wasserstein(torch.zeros(0, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="k=3"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_is_the_independent_implementation(seed: int, k: int):
    real, fake = normal(40, 1, 2, 3, seed=seed), 0.8 * normal(35, 1, 2, 3, seed=seed + 10) + 0.3
    expected = reference_precision_recall(real.numpy(), fake.numpy(), k)
    assert precision_recall(real, fake, k) == pytest.approx(expected)
    assert 0 < expected[0] < 1


def test_precision_recall_counts_ties_on_the_edge_and_repeated_samples():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 6, (60, 3)).astype(np.float64)
    fake = rng.integers(1, 8, (60, 3)).astype(np.float64)
    expected = reference_precision_recall(real, fake, 3)
    assert precision_recall(torch.from_numpy(real), torch.from_numpy(fake)) == pytest.approx(
        expected
    )


def test_precision_recall_of_one_set_with_itself_is_one():
    sample = normal(50, 4)
    assert precision_recall(sample, sample.flip(0)) == (1.0, 1.0)


def test_precision_recall_of_real_images_that_are_only_repeated():
    real = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert precision_recall(real, real[:6].repeat(10, 1, 1, 1)) == (1.0, pytest.approx(0.1))


def test_precision_recall_of_copies_of_one_real_sample():
    real = 100 * normal(50, 64).float()
    fake = real[7].expand(50, 64)
    assert precision_recall(real, fake) == (1.0, pytest.approx(1 / 50))


def test_precision_recall_of_far_sets_is_zero():
    assert precision_recall(normal(50, 4), normal(50, 4, seed=1) + 100) == (0.0, 0.0)


def test_precision_and_recall_are_the_right_way_round():
    broad, narrow = 5 * normal(200, 2), 0.1 * normal(200, 2, seed=1)
    precision, recall = precision_recall(broad, narrow)
    assert precision > 0.9
    assert recall < 0.1


def test_gradient_norm_of_a_linear_critic_is_its_weights_norm():
    linear = nn.Linear(6, 1)
    critic = nn.Sequential(nn.Flatten(), linear, nn.Flatten(0))
    real, fake = normal(9, 1, 2, 3).float(), normal(9, 1, 2, 3, seed=1).float()
    norms = gradient_norms(critic, real, fake, Draws(0, Stream.EVALUATION))
    assert norms.shape == (9,)
    assert torch.allclose(norms, linear.weight.norm().expand(9))


def test_gradient_norms_are_taken_between_the_real_and_the_fake_sample():
    seen: list[Tensor] = []

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return (x**2).sum(dim=1) / 2

    real, fake = normal(50, 2).float(), normal(50, 2, seed=1).float()
    norms = gradient_norms(Square(), real, fake, Draws(0, Stream.EVALUATION))
    (points,) = seen
    share = ((points - fake) * (real - fake)).sum(1) / ((real - fake) ** 2).sum(1)
    assert torch.allclose(fake + share[:, None] * (real - fake), points, atol=1e-5)
    assert -1e-5 <= float(share.min()) < 0.2
    assert 0.8 < float(share.max()) <= 1 + 1e-5
    assert torch.allclose(norms, points.norm(dim=1))


def test_gradient_norms_leave_no_gradients_behind():
    critic = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    real = normal(4, 2).float()
    gradient_norms(critic, real, real + 1, Draws(0, Stream.EVALUATION))
    assert all(p.grad is None for p in critic.parameters())
    assert not real.requires_grad

"""Distances, precision, recall and gradient norms against independent references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wgan_cli.metrics import neighbours
from wgan_cli.metrics.lipschitz import gradient_norms, layer_gradient_norms
from wgan_cli.metrics.neighbours import precision_recall
from wgan_cli.metrics.wasserstein import (
    exact_wasserstein,
    projected_distance,
    sorted_projections,
)
from wgan_cli.randomness import Draws, Stream

HERE = Draws(0, Stream.EVALUATION)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def sliced_wasserstein(
    first: Tensor, second: Tensor, draws: Draws, projections: int = 512
) -> float:
    return projected_distance(
        *(sorted_projections(side, draws, projections) for side in (first, second))
    )


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


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_exact_wasserstein_of_two_shifted_gaussians_is_the_shift_within_the_floor(
    size: float,
):
    first, second = normal(500, 2), normal(500, 2, seed=1)
    shift = size * torch.tensor([0.6, 0.8], dtype=torch.float64)
    floor = exact_wasserstein(first, second)
    assert 0 < floor < 0.3
    assert exact_wasserstein(first, second + shift) == pytest.approx(size, abs=floor)


def test_exact_wasserstein_is_zero_for_the_same_sample_in_another_order():
    sample = normal(40, 3)
    assert exact_wasserstein(sample, sample.flip(0)) == 0.0


def test_exact_wasserstein_resolves_a_tiny_shift_of_far_points():
    sample = 100 * normal(40, 3).float() + 1000
    moved = sample.double() + 1e-3
    assert exact_wasserstein(sample, moved) == pytest.approx(3**0.5 * 1e-3, rel=1e-6)


@pytest.mark.parametrize(("width", "projections"), [(2, 512), (30, 200), (1, 7)])
def test_sliced_wasserstein_is_pots_with_the_same_directions(width: int, projections: int):
    import ot

    first, second = normal(90, width).float(), 2 * normal(90, width, seed=1) + 1
    directions = HERE.numpy().standard_normal((width, projections))
    directions /= np.sqrt((directions**2).sum(axis=0))
    expected = ot.sliced_wasserstein_distance(
        first.double().numpy(), second.numpy(), p=1, projections=directions
    )
    found = sliced_wasserstein(first, second, HERE, projections)
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_sliced_wasserstein_in_one_dimension_is_scipys():
    first, second = normal(50, 1), 2 * normal(50, 1, seed=10) + 1
    expected = wasserstein_distance(first.flatten().numpy(), second.flatten().numpy())
    assert sliced_wasserstein(first, second, HERE) == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_of_a_shift_in_the_plane_is_its_closed_form():
    sample = normal(40, 1, 1, 2)
    shift = torch.tensor([3.0, -4.0], dtype=torch.float64)
    # The mean of |cos| over the circle is 2 / pi.
    found = sliced_wasserstein(sample, sample + shift, HERE, projections=20_000)
    assert found == pytest.approx(5 * 2 / np.pi, rel=0.02)
    assert found <= exact_wasserstein(sample, sample + shift)


def test_sliced_wasserstein_depends_only_on_its_draws():
    first, second = normal(40, 5), normal(40, 5, seed=1)
    found = sliced_wasserstein(first, second, HERE)
    assert found == sliced_wasserstein(first, second, HERE)
    assert found != sliced_wasserstein(first, second, Draws(1, Stream.EVALUATION))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_samples_are_refused(broken: float):
    good, bad = torch.zeros(8, 2), torch.zeros(8, 2)
    bad[3, 1] = broken
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="NaN"):
            exact_wasserstein(*pair)
        with pytest.raises(ValueError, match="NaN"):
            sliced_wasserstein(*pair, HERE)
        with pytest.raises(ValueError, match="NaN"):
            precision_recall(*pair)
    with pytest.raises(ValueError, match="NaN"):
        precision_recall(bad, good, real_radii=torch.ones(8).double())


def test_unequal_or_empty_samples_are_refused():
    with pytest.raises(ValueError, match="equal shape"):
        exact_wasserstein(torch.zeros(4, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="equal shape"):
        exact_wasserstein(torch.zeros(0, 2), torch.zeros(0, 2))
    for sizes in ((4, 5), (0, 0)):
        with pytest.raises(ValueError, match="equal shape"):
            sliced_wasserstein(torch.zeros(sizes[0], 2), torch.zeros(sizes[1], 2), HERE)
    for one, other in ((1, 5), (0, 0)):
        with pytest.raises(ValueError, match="equal shape"):
            projected_distance(torch.zeros(512, one), torch.zeros(512, other))
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


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_is_torch_fidelitys(seed: int):
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = normal(150, 6, seed=seed), 0.7 * normal(130, 6, seed=seed + 10) + 0.4
    expected = prc_features_to_metric(fake, real, verbose=False)
    # torch-fidelity averages in float32.
    assert precision_recall(real, fake) == pytest.approx(
        (expected["precision"], expected["recall"]), abs=1e-6
    )


def lonely(count: int, seed: int = 0) -> Tensor:
    samples = normal(count, 3, seed=seed)
    samples[7] = 1e100
    return samples


def awkward_sets() -> dict[str, tuple[Tensor, Tensor]]:
    grid = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (400, 4))).double()
    few = normal(12, 9)[torch.arange(200) % 12]
    far = normal(200, 9) + 1e6
    return {
        "ties": (grid[:200], grid[200:]),
        "repeats": (few, few[:150] + 1e-9),
        "far away": (far[:100], far[100:].flip(0)),
        "so far that nothing is sure": (far[:100] + 1e8, far[100:] + 1e8),
        "one point": (torch.ones(30, 3).double(), normal(40, 3)),
        "overflowing": (normal(60, 3) * 1e160, normal(60, 3, seed=1)),
        "underflowing": (normal(60, 3) * 1e-170, normal(60, 3, seed=1) * 1e-170),
        "one of each very far away": (lonely(80), lonely(80, seed=1)),
        "copies of the real": (normal(90, 20).float().double(), normal(90, 20).float().double()),
    }


@pytest.mark.parametrize("at_once", [2**23, 2**11])
@pytest.mark.parametrize("name", awkward_sets())
def test_precision_recall_is_bit_for_bit_that_of_all_exact_distances(
    name: str, at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(neighbours, "_MAX_NUMBERS", at_once)
    real, fake = awkward_sets()[name]

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    def radii(samples: Tensor) -> Tensor:
        return distances(samples, samples).kthvalue(4, dim=1).values

    for samples in (real, fake):
        assert torch.equal(neighbours.ball_radii(samples, 3), radii(samples))
    inside_real, inside_fake = neighbours._inside_balls(real, fake, radii(real), radii(fake))
    assert torch.equal(inside_real, (distances(fake, real) <= radii(real)).any(dim=1))
    assert torch.equal(inside_fake, (distances(real, fake) <= radii(fake)).any(dim=1))
    known = precision_recall(real, fake, real_radii=neighbours.ball_radii(real))
    assert known == precision_recall(real, fake)


@pytest.mark.parametrize(
    "name", [*(name for name in awkward_sets() if name != "overflowing"), "much alike"]
)
def test_exact_wasserstein_is_that_of_scipys_assignment_of_all_exact_distances(name: str):
    alike = {"much alike": (0.01 * normal(80, 30), normal(80, 30, seed=1))}
    real, fake = {**awkward_sets(), **alike}[name]
    real, fake = real[: len(fake)], fake[: len(real)]
    costs = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist").numpy()
    expected = costs[linear_sum_assignment(costs)].mean()
    assert exact_wasserstein(real, fake) == pytest.approx(expected, rel=1e-12, abs=1e-300)


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


def test_precision_and_recall_are_not_swapped():
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
    assert torch.allclose(norms, linear.weight.double().norm().expand(9))


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
    assert torch.allclose(norms, points.double().norm(dim=1))


def test_gradient_norms_leave_no_gradients_behind():
    critic = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    real = normal(4, 2).float()
    gradient_norms(critic, real, real + 1, Draws(0, Stream.EVALUATION))
    assert all(p.grad is None for p in critic.parameters())
    assert not real.requires_grad


def of_layers(critic: nn.Module, samples: Tensor) -> dict[str, float]:
    return dict(layer_gradient_norms(critic, samples))


class Scores(nn.Module):
    """Three linear layers with in-place ReLUs between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 4), nn.LeakyReLU(0.2, inplace=True)
        )
        self.last = nn.Linear(4, 1)

    def forward(self, samples: Tensor) -> Tensor:
        return self.last(self.layers(samples)).flatten()


def test_layer_gradient_norms_are_those_of_the_chain_rule_by_hand():
    critic, samples = Scores().double(), normal(30, 5)
    found = layer_gradient_norms(critic, samples)
    assert [name for name, _ in found] == ["layers.0", "layers.2", "last"]

    first, second, last = critic.layers[0], critic.layers[2], critic.last
    norms: dict[str, list[float]] = {"layers.0": [], "layers.2": [], "last": []}
    for x in samples.numpy():
        w1, w2, w3 = (layer.weight.detach().numpy() for layer in (first, second, last))
        one = w1 @ x + first.bias.detach().numpy()
        two = w2 @ np.maximum(one, 0) + second.bias.detach().numpy()
        by_two = w3[0] * np.where(two > 0, 1, 0.2)
        by_one = (by_two @ w2) * (one > 0)
        norms["last"].append(1.0)
        norms["layers.2"].append(float(np.linalg.norm(by_two)))
        norms["layers.0"].append(float(np.linalg.norm(by_one)))
    for name, norm in found:
        assert norm == pytest.approx(float(np.mean(norms[name])), rel=1e-9)


def test_layer_gradient_norms_do_not_depend_on_the_relus_being_in_place():
    critic, samples = Scores().double(), normal(30, 5)
    expected = of_layers(critic, samples)
    critic.layers[1].inplace = critic.layers[3].inplace = False
    assert of_layers(critic, samples) == pytest.approx(expected, rel=1e-12)


def test_layer_gradient_norms_leave_the_critic_as_it_was():
    critic, samples = Scores(), normal(30, 5).float()
    critic.layers.eval()
    before = critic(samples).detach()
    with torch.no_grad():
        layer_gradient_norms(critic, samples)
    assert torch.equal(critic(samples), before)
    assert (critic.training, critic.layers.training) == (True, False)
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert not any(module._forward_hooks for module in critic.modules())
    assert not samples.requires_grad
    with pytest.raises(RuntimeError):
        layer_gradient_norms(critic, samples[:, :3])
    assert not any(module._forward_hooks for module in critic.modules())


def test_layer_gradient_norms_of_a_frozen_critic_are_the_same():
    critic, samples = Scores(), normal(30, 5).float()
    expected = of_layers(critic, samples)
    assert of_layers(critic.requires_grad_(False), samples) == pytest.approx(expected)


def test_layers_are_linear_and_convolution_also_parametrised_and_no_normalisation():
    critic = nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(1, 3, 3)),
        nn.BatchNorm2d(3),
        nn.LayerNorm([3, 6, 6]),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Flatten(),
        parametrizations.weight_norm(nn.Linear(108, 4)),
        nn.PReLU(),
        nn.Linear(4, 1),
        nn.Flatten(0),
    ).eval()
    found = layer_gradient_norms(critic, normal(6, 1, 8, 8).float())
    assert [name for name, _ in found] == ["0", "5", "7"]
    assert all(norm > 0 for _, norm in found)
    assert found[-1][1] == 1.0


def test_finding_the_layers_does_not_iterate_spectral_normalisation():
    looked, plain = (parametrizations.spectral_norm(nn.Linear(4, 3)) for _ in range(2))
    plain.load_state_dict(looked.state_dict())
    samples = normal(6, 4).float()
    layer_gradient_norms(looked, samples)
    plain(samples)
    for one, other in zip(looked.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)


def test_a_layer_that_the_score_ignores_has_norm_zero_and_one_without_layers_gives_none():
    class Ignoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, samples: Tensor) -> Tensor:
            self.unused(samples)
            return self.used(samples).flatten()

    assert of_layers(Ignoring(), normal(6, 3).float()) == {"used": 1.0, "unused": 0.0}
    assert layer_gradient_norms(nn.Flatten(0), normal(6, 1)) == []

"""Distances of features against scipy, closed forms and numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from wgan_cli.metrics.features import (
    class_divergence,
    frechet_distance,
    inception_score,
    kernel_distance,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def covariance(width: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((width, width))
    return factor @ factor.T + 0.1 * np.eye(width)


def exactly(mean: np.ndarray, sigma: np.ndarray, n: int, seed: int) -> Tensor:
    """Samples with exactly this mean and this unbiased covariance."""
    raw = np.random.default_rng(seed).standard_normal((n, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(raw, rowvar=False))).T)
    return torch.from_numpy(white @ np.linalg.cholesky(sigma).T + mean)


def reference_frechet(real: Tensor, fake: Tensor) -> float:
    a, b = real.numpy(), fake.numpy()
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(c @ d)
    apart = a.mean(0) - b.mean(0)
    return float(apart @ apart + np.trace(c + d - 2 * np.real(root)))


def reference_kernel(real: Tensor, fake: Tensor) -> float:
    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def mean(first: np.ndarray, second: np.ndarray, same: bool) -> float:
        return float(
            np.mean(
                [
                    kernel(a, b)
                    for i, a in enumerate(first)
                    for j, b in enumerate(second)
                    if not (same and i == j)
                ]
            )
        )

    x, y = real.numpy(), fake.numpy()
    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance_is_scipys_matrix_root(seed: int):
    real = normal(300, 12, seed=seed) @ normal(12, 12, seed=seed + 10)
    fake = normal(250, 12, seed=seed + 20) @ normal(12, 12, seed=seed + 30) + 0.5
    assert frechet_distance(real, fake) == pytest.approx(reference_frechet(real, fake), rel=1e-6)


def test_frechet_distance_of_gaussians_with_diagonal_covariances_is_its_closed_form():
    real = exactly(np.array([0.0, 1.0, -2.0]), np.diag([1.0, 4.0, 9.0]), 500, 0)
    fake = exactly(np.array([3.0, 1.0, 2.0]), np.diag([4.0, 4.0, 0.25]), 700, 1)
    expected = 9 + 0 + 16 + (1 - 2) ** 2 + 0 + (3 - 0.5) ** 2
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_gaussians_with_full_covariances_is_its_closed_form():
    first, second = covariance(8, 0), covariance(8, 1)
    means = np.random.default_rng(2).standard_normal((2, 8))
    half = scipy.linalg.sqrtm(first)
    # The symmetric form, by another route than the product's root.
    root = scipy.linalg.sqrtm(half @ second @ half)
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * np.real(root))
    real, fake = exactly(means[0], first, 400, 3), exactly(means[1], second, 300, 4)
    assert frechet_distance(real, fake) == pytest.approx(float(expected), rel=1e-8)


def test_frechet_distance_of_one_feature_is_its_closed_form():
    real = exactly(np.array([1.0]), np.array([[4.0]]), 50, 0)
    fake = exactly(np.array([3.0]), np.array([[1.0]]), 60, 1)
    assert frechet_distance(real, fake) == pytest.approx(4 + 1, rel=1e-9)


@pytest.mark.parametrize("n", [20, 500])
def test_frechet_distance_of_a_set_from_itself_is_zero_also_with_fewer_samples_than_features(
    n: int,
):
    features = normal(n, 40).float()
    assert 0 <= frechet_distance(features, features.flip(0)) < 1e-5


def test_frechet_distance_measures_in_float64():
    features = normal(400, 6).float()
    far = features + 1000
    expected = reference_frechet(far.double(), 2 * far.double())
    assert frechet_distance(far, 2 * far) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_kernel_distance_is_the_unbiased_estimator(seed: int):
    real, fake = normal(60, 5, seed=seed), 1.5 * normal(60, 5, seed=seed + 10) + 0.3
    expected = reference_kernel(real, fake)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_of_one_distribution_is_zero_on_average():
    found = [
        kernel_distance(normal(100, 4, seed=seed), normal(100, 4, seed=seed + 1000))
        for seed in range(200)
    ]
    assert min(found) < 0
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(200)


def test_kernel_distance_of_unequal_sizes_is_the_mean_over_subsets_and_repeats():
    real, fake = normal(1500, 3), normal(80, 3, seed=1) + 1
    found = kernel_distance(real, fake)
    assert found == kernel_distance(real, fake)
    x, y = real.numpy(), fake.numpy()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 3 + 1) ** 3

    def off(k: np.ndarray) -> float:
        return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))

    # Over random subsets the estimator's mean is that of all samples.
    everything = off(kernel(x, x)) + off(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert found == pytest.approx(everything, rel=0.1)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_inception_score_of_even_confident_predictions_is_the_number_of_classes(classes: int):
    logits = 40 * torch.eye(classes).repeat(100 // classes, 1)
    assert inception_score(logits) == pytest.approx(classes, rel=1e-9)


def test_inception_score_of_probabilities_that_underflow_is_not_nan():
    logits = torch.zeros(40, 4)
    logits[:20, 0] = logits[20:, 1] = 1e5
    assert inception_score(logits) == pytest.approx(2, rel=1e-9)


def test_inception_score_of_predictions_that_hardly_differ_is_one():
    assert inception_score(1e-4 * normal(100, 10)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("n", "splits"), [(199, 1), (500, 5), (1000, 10), (2300, 10)])
def test_inception_score_is_the_mean_over_splits_of_100_samples_and_more(n: int, splits: int):
    logits = 3 * normal(n, 5)
    order = np.random.RandomState(2020).permutation(n)
    p = scipy.special.softmax(logits.numpy()[order], axis=1)
    scores = []
    for i in range(splits):
        part = p[i * n // splits : (i + 1) * n // splits]
        marginal = np.broadcast_to(part.mean(0), part.shape)
        scores.append(np.exp(scipy.stats.entropy(part, marginal, axis=1).mean()))
    assert inception_score(logits) == pytest.approx(np.mean(scores), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_class_divergence_is_scipys_entropy(seed: int):
    rng = np.random.default_rng(seed)
    counts, reference = rng.integers(0, 50, 10), rng.integers(1, 90, 10)
    counts[seed] = 0
    found = class_divergence(torch.from_numpy(counts), torch.from_numpy(reference))
    assert found == pytest.approx(scipy.stats.entropy(counts, reference), rel=1e-12)


def test_class_divergence_of_a_collapse_is_the_logarithm_of_the_classes():
    counts = torch.tensor([0, 0, 300, 0])
    assert class_divergence(counts, torch.tensor([5, 5, 5, 5])) == pytest.approx(math.log(4))
    assert class_divergence(torch.tensor([1, 2, 3]), torch.tensor([10, 20, 30])) == pytest.approx(
        0, abs=1e-12
    )


def test_class_divergence_refuses_what_has_no_finite_value():
    some = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="no samples in a class"):
        class_divergence(some, torch.tensor([1, 0, 3]))
    for pair in ((some, 0 * some), (0 * some, some)):
        with pytest.raises(ValueError, match="a histogram is empty"):
            class_divergence(*pair)
    with pytest.raises(ValueError, match="equal length"):
        class_divergence(some, torch.tensor([1, 2]))
    for broken in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="negative, NaN"):
            class_divergence(torch.tensor([1.0, broken]), torch.tensor([1, 1]))


def only(features: Tensor) -> float:
    return inception_score(features)


def as_real(features: Tensor) -> float:
    return frechet_distance(features, normal(20, 3))


def as_fake(features: Tensor) -> float:
    return frechet_distance(normal(20, 3), features)


def as_kernels_real(features: Tensor) -> float:
    return kernel_distance(features, normal(20, 3))


def as_kernels_fake(features: Tensor) -> float:
    return kernel_distance(normal(20, 3), features)


@pytest.mark.parametrize("measure", [only, as_real, as_fake, as_kernels_real, as_kernels_fake])
def test_features_that_cannot_be_measured_are_refused(measure: Callable[[Tensor], float]):
    for broken in (float("nan"), float("inf"), -float("inf")):
        features = normal(20, 3)
        features[4, 2] = broken
        with pytest.raises(ValueError, match="NaN or infinite"):
            measure(features)
    with pytest.raises(ValueError, match="at least 2 samples"):
        measure(normal(1, 3))
    with pytest.raises(ValueError, match="all samples are equal"):
        measure(normal(1, 3).expand(20, 3))
    with pytest.raises(ValueError, match=r"shape \(n, d\)"):
        measure(normal(20, 3, 2))


@pytest.mark.parametrize("measure", [as_real, as_fake, as_kernels_real, as_kernels_fake])
def test_features_of_unequal_widths_are_refused(measure: Callable[[Tensor], float]):
    with pytest.raises(ValueError, match="equal width"):
        measure(normal(20, 4))

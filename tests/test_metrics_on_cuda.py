"""Metrics of samples on CUDA: the same numbers as on the CPU, and no hidden use of the CPU.

There need be no GPU: the samples lie on the CPU and only say that they do not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from wgan_cli.metrics.features import frechet_distance, inception_score, kernel_distance
from wgan_cli.metrics.neighbours import ball_radii, modes_found, precision_recall, share_within
from wgan_cli.metrics.wasserstein import (
    exact_wasserstein,
    projected_distance,
    sorted_projections,
)
from wgan_cli.randomness import Draws, Stream

LINES = Draws(0, Stream.EVALUATION)


class OnCuda(Tensor):
    """A tensor that claims to be on CUDA, as every result of it does. numpy needs `cpu()` first."""

    is_cuda = True

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def samples(count: int, width: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, width)) @ rng.standard_normal((width, width))
    return torch.from_numpy(mixed + 0.1 * seed)


def sliced(real: Tensor, fake: Tensor) -> float:
    return projected_distance(sorted_projections(real, LINES), sorted_projections(fake, LINES))


METRICS: dict[str, Callable[[Tensor, Tensor], float | tuple[float, ...]]] = {
    "exact": exact_wasserstein,
    "sliced": sliced,
    "Frechet": frechet_distance,
    "kernel": kernel_distance,
    "kernel of unequal sets": lambda real, fake: kernel_distance(real, fake[:250]),
    "Inception Score": lambda _, fake: inception_score(fake),
    "precision and recall": precision_recall,
    "modes": lambda real, fake: modes_found(fake, real[:40].cpu(), 1.0),
    "share": lambda real, fake: share_within(fake, real[:40].cpu(), 1.0),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_on_cuda_is_that_on_the_cpu(name: str):
    real, fake = samples(300, 6, 0), samples(300, 6, 1)
    expected = METRICS[name](real, fake)
    found = METRICS[name](real.as_subclass(OnCuda), fake.as_subclass(OnCuda))
    assert found == pytest.approx(expected, rel=1e-9)
    assert expected not in (0, 1)


def test_a_single_feature_has_a_variance():
    real, fake = samples(50, 1, 0), samples(50, 1, 1)
    found = frechet_distance(real.as_subclass(OnCuda), fake.as_subclass(OnCuda))
    assert found == pytest.approx(frechet_distance(real, fake), rel=1e-9)


def test_results_that_are_kept_stay_on_the_device():
    real = samples(40, 3, 0).as_subclass(OnCuda)
    assert ball_radii(real).is_cuda
    assert sorted_projections(real, LINES).is_cuda

"""Mode counts against samples made by hand and a Gaussian's closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from wgan_cli.metrics.neighbours import modes_found, share_within

RING = torch.tensor([[math.cos(a), math.sin(a)] for a in torch.linspace(0, 5.5, 8).tolist()])


def test_the_share_of_a_gaussian_in_the_plane_is_its_closed_form():
    normal = np.random.default_rng(0).standard_normal((200_000, 2))
    centres = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    samples = torch.from_numpy(0.5 * normal) + centres[torch.arange(200_000) % 2]
    for radius in (1.0, 2.0, 3.0):
        expected = 1 - math.exp(-(radius**2) / 2)
        tolerance = 5 * math.sqrt(expected * (1 - expected) / 200_000)
        assert share_within(samples, centres, 0.5, radius) == pytest.approx(expected, abs=tolerance)
    assert share_within(samples, centres, 0.5) == pytest.approx(0.98889, abs=0.0012)


@pytest.mark.parametrize("reached", range(9))
def test_modes_are_counted_once_however_many_samples_they_have(reached: int):
    at_modes = RING[:reached].repeat(5, 1) + 0.001
    samples = torch.cat([at_modes, torch.full((3, 2), 9.0)])
    assert modes_found(samples, RING, 0.01) == reached
    assert share_within(samples, RING, 0.01) == pytest.approx(5 * reached / (5 * reached + 3))


def test_a_sample_at_exactly_three_std_belongs_to_the_mode():
    centre = torch.zeros(1, 3)

    def at(distance: float) -> Tensor:
        return torch.tensor([[0.0, distance, 0.0]], dtype=torch.float64)

    assert modes_found(at(1.5), centre, 0.5) == 1
    assert share_within(at(1.5), centre, 0.5) == 1.0
    assert modes_found(at(1.5 + 1e-9), centre, 0.5) == 0
    assert share_within(at(1.5 + 1e-9), centre, 0.5) == 0.0
    assert share_within(at(1.5 + 1e-9), centre, 0.5, radius=4.0) == 1.0


def test_a_sample_between_two_modes_counts_by_its_nearest():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    samples = torch.tensor([[9.5, 0.0], [5.0, 0.0]])
    assert modes_found(samples, centres, 0.3) == 1
    assert share_within(samples, centres, 0.3) == 0.5


@pytest.mark.parametrize("measure", [modes_found, share_within])
def test_what_cannot_be_measured_is_refused(measure):
    good = torch.zeros(4, 2)
    for broken in (float("nan"), float("inf")):
        bad = good.clone()
        bad[1, 1] = broken
        for pair in ((bad, good), (good, bad)):
            with pytest.raises(ValueError, match="NaN"):
                measure(*pair, 1.0)
    with pytest.raises(ValueError, match="equal width"):
        measure(good, torch.zeros(4, 3), 1.0)
    with pytest.raises(ValueError, match="at least one"):
        measure(good[:0], good, 1.0)
    for std in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="std"):
            measure(good, good, std)

"""The figures of arXiv 1704.00028 in small: the numbers that are printed and drawn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import clipped_weights, critic_contours, gradient_depth
from benchmarks.fixed_generator import (
    GRID,
    RING,
    SWISS_ROLL,
    Recipe,
    Task,
    clipping,
    look,
    penalty,
    starting_critic,
    train,
)
from wgan_cli.models.mlp import Critic

pytestmark = pytest.mark.charts

QUICK = ["--batch=32", "--width=16"]


def rows_of(printed: str, label: str) -> list[list[float]]:
    """The numbers behind a label in each printed row that has it."""
    return [
        [
            float(word.rstrip("%"))
            for word in line.split(label)[1].split()
            if word[0] in "-0123456789"
        ]
        for line in printed.splitlines()
        if label in line
    ]


def trained(recipe: Recipe, task: Task = RING, **changes: int) -> Critic:
    settings = {"updates": 5, "batch": 16, "seed": 0} | changes
    critic = starting_critic(recipe, width=8, depth=2, seed=settings["seed"])
    train(critic, task, recipe, **settings)
    return critic


def assert_is_picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("L").getcolors() or range(257)) > 10


@pytest.mark.parametrize("task", [GRID, RING])
def test_the_noise_has_the_spread_of_the_means(task: Task):
    centres = task.data.modes.centres
    assert task.noise == pytest.approx(np.sqrt((centres**2).mean()))


@pytest.mark.parametrize("task", [GRID, RING, SWISS_ROLL])
def test_fakes_are_other_real_points_with_the_noise_added(task: Task):
    real, fake, more = task.held_out(1000)
    assert real.shape == fake.shape == more.shape == (1000, 2)
    assert not torch.equal(real, more)
    moved = fake - task.data.held_out[1000:2000]
    assert float(moved.std()) == pytest.approx(task.noise, rel=0.05)
    assert not torch.equal(task.data.held_out[1000:2000], real)


@pytest.mark.parametrize("recipe", [clipping(0.01), penalty(1.0)])
def test_a_critic_is_a_function_of_its_seed(recipe: Recipe):
    def scores(seed: int) -> torch.Tensor:
        return trained(recipe, seed=seed)(RING.data.held_out[:8])

    assert torch.equal(scores(0), scores(0))
    assert not torch.equal(scores(0), scores(1))


def test_a_clipped_critic_starts_inside_its_bound_and_a_penalised_one_as_ever():
    narrow = clipped_weights.weights_of(starting_critic(clipping(0.01), width=64, depth=2, seed=0))
    assert np.abs(narrow).max() <= 0.01 * (1 + 1e-6)
    assert (np.abs(narrow) >= 0.0099).mean() < 0.05
    usual = clipped_weights.weights_of(starting_critic(penalty(1.0), width=64, depth=2, seed=0))
    assert np.abs(usual).max() > 0.5


def test_what_a_critic_sees_does_not_depend_on_its_scale_and_a_slope_of_one_sees_itself():
    class Along(torch.nn.Module):
        """2 x, of slope 2: the estimate over it is the difference of the means in x."""

        def forward(self, points: torch.Tensor) -> torch.Tensor:
            return 2 * points[:, 0]

    sight = look(Along(), GRID, 256)
    real, fake, _ = GRID.held_out(256)
    apart = float(real[:, 0].mean() - fake[:, 0].mean())
    assert sight.slope == pytest.approx(2)
    assert sight.normalized == pytest.approx(apart, abs=1e-5)
    assert sight.share == pytest.approx(apart / sight.exact, abs=1e-5)
    assert 0 < sight.floor < sight.exact


def test_contours_print_what_each_of_six_critics_sees(tmp_path: Path, capsys):
    out = tmp_path / "contours.png"
    critic_contours.main([str(out), *QUICK, "--updates=40", "--samples=128"])
    printed = capsys.readouterr().out
    clipped, penalised = rows_of(printed, "c = 0.01"), rows_of(printed, "λ = 1")
    assert len(clipped) == len(penalised) == 3
    for estimate, slope, normalized, exact, floor, seen in clipped + penalised:
        assert normalized == pytest.approx(estimate / slope, rel=0.02, abs=1e-3)
        assert seen == pytest.approx(normalized / exact, abs=0.01)
        assert seen <= 1
        assert floor < exact
    # One task a column: the truth is the same for both.
    assert [row[3:5] for row in clipped] == [row[3:5] for row in penalised]
    assert_is_picture(out)


@pytest.mark.parametrize(
    ("main", "words", "named"),
    [
        (critic_contours.main, ["--samples=1366"], "--samples must lie between 1 and 1365"),
        (gradient_depth.main, ["--depth=1"], "--depth must be at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(main, words: list[str], named: str, capsys):
    with pytest.raises(SystemExit):
        main(["out.png", *words])
    assert named in capsys.readouterr().err


def test_gradients_fall_with_the_clip_and_stand_under_the_penalty(tmp_path: Path, capsys):
    out = tmp_path / "gradients.png"
    small = ["--updates=60", "--depth=6", "--samples=64"]
    gradient_depth.main([str(out), *QUICK, *small])
    printed = capsys.readouterr().out
    factors, starts = [], []
    for label in ("c = 0.001", "c = 0.01", "c = 0.1", "λ = 1"):
        ((first, last, ratio, factor, before),) = rows_of(printed, f"{label} ")
        assert ratio == pytest.approx(first / last, rel=0.1)
        # Six hidden layers, five steps from the last to the first.
        assert factor == pytest.approx(ratio ** (1 / 5), rel=0.02)
        factors.append(factor)
        starts.append(before)
    assert factors == sorted(factors)
    # Below the optimizer's epsilon no gradient moves a weight, so what vanishes goes on vanishing.
    assert factors[0] == pytest.approx(starts[0], rel=0.3)
    assert factors[-1] > 1.1 * starts[-1]
    assert factors[0] < 0.01 < 0.3 < factors[-1]
    assert_is_picture(out)


def test_gradients_too_small_for_float32_are_still_numbers():
    critic = starting_critic(clipping(1e-4), width=8, depth=10, seed=0)
    norms = gradient_depth.norms_by_layer(critic, 32)
    assert len(norms) == 11
    assert norms[-1] == 1
    assert 0 < norms[0] < 1e-30
    assert gradient_depth.factor([0.125, 0.25, 0.5, 1.0]) == pytest.approx(0.5)


def test_weights_pile_up_at_the_clip_and_nowhere_under_the_penalty(tmp_path: Path, capsys):
    out = tmp_path / "weights.png"
    clipped_weights.main([str(out), *QUICK, "--updates=400", "--clip=0.02"])
    printed = capsys.readouterr().out
    (start, end), penalised = rows_of(printed, "c = 0.02"), rows_of(printed, "λ = 1")
    assert start[0] == end[0] == 0.02
    assert end[1] > 3 * start[1]
    assert end[2] >= end[1] > 15
    assert len(penalised) == 2
    assert all(share < 0.5 for row in penalised for share in row[1:])
    assert_is_picture(out)


def test_shares_by_bin_are_shares_of_all_weights():
    weights = np.array([-1, -1, 0, 1], dtype=np.float32)
    shares = clipped_weights.shares_by_bin(weights, 1.0)
    assert len(shares) == clipped_weights.BINS
    assert math.isclose(shares.sum(), 1)
    assert (shares[0], shares[-1]) == (0.5, 0.25)

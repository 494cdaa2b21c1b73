"""Distributions of points in the plane: endless, the mixtures with modes that can be counted."""

from __future__ import annotations

import numpy as np

from wgan_cli.data.dataset import EndlessDataset, Modes


def gaussians_ring(
    name: str = "gaussians_ring", modes: int = 8, radius: float = 1.0, std: float = 0.05
) -> EndlessDataset:
    """`modes` equal round Gaussians at even angles on a circle (arXiv 1704.00028, figure 1)."""
    angles = 2 * np.pi * np.arange(modes) / modes
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _mixture(name, Modes(centres, std))


def gaussians_grid(
    name: str = "gaussians_grid", side: int = 5, spacing: float = 1.0, std: float = 0.05
) -> EndlessDataset:
    """`side` times `side` equal round Gaussians on a square grid (arXiv 1704.00028, figure 1).

    Its middle is 0 and neighbours lie `spacing` apart; nothing is scaled further, so five at 1.0
    have their means in {-2, -1, 0, 1, 2} squared. The paper's code has spacing 2 and std 0.05, both
    divided by 2.828; here std is twice as large against the spacing.
    """
    line = spacing * (np.arange(side) - (side - 1) / 2)
    centres = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return _mixture(name, Modes(centres, std))


def parallel_lines(name: str = "parallel_lines") -> EndlessDataset:
    """Points (0, z) with z uniform on [0, 1] (arXiv 1701.07875, Example 1).

    `model=parallel_lines` draws the same line at a distance.
    """

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.stack([np.zeros(count), rng.random(count)], axis=1).astype(np.float32)

    return EndlessDataset(name, (2,), draw)


def swiss_roll(name: str = "swiss_roll", noise: float = 0.25) -> EndlessDataset:
    """A spiral of one and a half turns (arXiv 1704.00028, figures 1 and 2).

    (t cos t, t sin t) with t uniform on [1.5 pi, 4.5 pi], and normal `noise` in both coordinates;
    all of it over 7.5, as in the paper's code: about its standard deviation.
    """

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        t = rng.uniform(1.5 * np.pi, 4.5 * np.pi, size=count)
        roll = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
        return ((roll + noise * rng.standard_normal((count, 2))) / 7.5).astype(np.float32)

    return EndlessDataset(name, (2,), draw)


def _mixture(name: str, modes: Modes) -> EndlessDataset:
    count_of_modes, coordinates = modes.centres.shape

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        chosen = rng.integers(count_of_modes, size=count)
        points = modes.centres[chosen] + modes.std * rng.standard_normal((count, coordinates))
        return points.astype(np.float32)

    return EndlessDataset(name, (coordinates,), draw, modes=modes)

"""Endless data sets: distributions of points in the plane."""

from __future__ import annotations

import numpy as np

from wgan_cli.data.dataset import EndlessDataset, Modes


def gaussians_ring(
    name: str = "gaussians_ring", modes: int = 8, radius: float = 1.0, std: float = 0.05
) -> EndlessDataset:
    """Return `modes` equal Gaussians, evenly spaced on a circle (arXiv 1704.00028, figure 1)."""
    angles = 2 * np.pi * np.arange(modes) / modes
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _mixture(name, Modes(centres, std))


def gaussians_grid(
    name: str = "gaussians_grid", side: int = 5, spacing: float = 1.0, std: float = 0.05
) -> EndlessDataset:
    """Return side * side equal Gaussians on a square grid (arXiv 1704.00028, figure 1).

    The grid is centred on 0, and neighbours are `spacing` apart: with side 5 and spacing 1.0, each
    coordinate of a mean is -2, -1, 0, 1 or 2. The paper's code uses spacing 2 and std 0.05, and
    divides both by 2.828. Relative to the spacing, the default std here is twice as large.
    """
    line = spacing * (np.arange(side) - (side - 1) / 2)
    centres = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    return _mixture(name, Modes(centres, std))


def parallel_lines(name: str = "parallel_lines") -> EndlessDataset:
    """Return points (0, z) with z uniform on [0, 1] (arXiv 1701.07875, Example 1).

    `model=parallel_lines` generates the same line, shifted by theta.
    """

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.stack([np.zeros(count), rng.random(count)], axis=1).astype(np.float32)

    return EndlessDataset(name, (2,), draw)


def swiss_roll(name: str = "swiss_roll", noise: float = 0.25) -> EndlessDataset:
    """Return points on a spiral of one and a half turns (arXiv 1704.00028, figures 1 and 2).

    Points are (t cos t, t sin t) with t uniform on [1.5 pi, 4.5 pi], plus normal noise of standard
    deviation `noise` in both coordinates. As in the paper's code, the sum is divided by 7.5, about
    its standard deviation.
    """

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        t = rng.uniform(1.5 * np.pi, 4.5 * np.pi, size=count)
        roll = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
        return ((roll + noise * rng.standard_normal((count, 2))) / 7.5).astype(np.float32)

    return EndlessDataset(name, (2,), draw)


def _mixture(name: str, modes: Modes) -> EndlessDataset:
    mode_count, coordinates = modes.centres.shape

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        chosen = rng.integers(mode_count, size=count)
        points = modes.centres[chosen] + modes.std * rng.standard_normal((count, coordinates))
        return points.astype(np.float32)

    return EndlessDataset(name, (coordinates,), draw, modes=modes)

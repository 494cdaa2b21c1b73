"""Distributions of points in the plane: endless, with modes that can be counted."""

from __future__ import annotations

import numpy as np

from wgan_cli.data.dataset import EndlessDataset


def gaussians_ring(
    name: str = "gaussians_ring", modes: int = 8, radius: float = 1.0, std: float = 0.05
) -> EndlessDataset:
    """`modes` equal round Gaussians at even angles on a circle (arXiv 1704.00028, figure 1)."""
    angles = 2 * np.pi * np.arange(modes) / modes
    centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        chosen = rng.integers(modes, size=count)
        points = centres[chosen] + std * rng.standard_normal((count, 2))
        return points.astype(np.float32)

    return EndlessDataset(name, (2,), draw)

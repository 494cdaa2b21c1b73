"""Wasserstein distances between samples: exact, and sliced, which is cheaper."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wgan_cli.metrics.distances import EXACT, finite_rows, indices_where, squared_distances
from wgan_cli.randomness import Draws

# The approximate number of costs from which `exact_wasserstein` computes each median.
_MEDIAN_OF = 64
# How many rows of costs are looked at at once.
_ROWS = 256


def exact_wasserstein(first: Tensor, second: Tensor) -> float:
    """Return W1 between two sets of samples of equal size, with the Euclidean distance as cost.

    W1 is the mean cost of the cheapest one-to-one assignment, which is the optimal transport plan
    for equal weights. It is computed in float64: the costs on the device of the samples, the
    assignment on the CPU. Samples are (n, ...) and are flattened. Raises ValueError for unequal
    sizes and for NaN or infinite values.
    """
    from scipy.optimize import linear_sum_assignment

    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"two samples of equal shape are needed, not {list(first.shape)} and"
            f" {list(second.shape)}"
        )
    first, second = finite_rows(first), finite_rows(second)
    costs = _distances(first, second).cpu().numpy()
    # Subtracting a constant from a row or column does not change the best assignment. It makes the
    # search several times faster if generated samples are similar, because costs are then similar
    # too. Use medians: one distant sample makes a mean so large that rounding hides other costs.
    stride = max(1, len(costs) // _MEDIAN_OF)
    costs -= np.median(costs[:, ::stride], axis=1, keepdims=True)
    costs -= np.median(costs[::stride], axis=0)
    # Each row has one column, because there are as many of both.
    _, columns = linear_sum_assignment(costs)
    partners = second[torch.from_numpy(columns).to(second.device)]
    return float((first - partners).norm(dim=1).mean())


def sorted_projections(samples: Tensor, draws: Draws, projections: int = 512) -> Tensor:
    """Project samples (n, ...) to random lines; return the sorted values, (projections, n).

    They are float64 numbers on the device of the samples. The same `draws` give the same lines.
    Raises ValueError for NaN or infinite values.
    """
    rows = finite_rows(samples)
    # POT's `ot.sliced_wasserstein_distance` gives the same number, but its import takes 2 seconds.
    projected = _directions(draws, rows.shape[1], projections).to(rows.device).T @ rows.T
    if projected.is_cuda:
        return projected.sort().values
    # On the CPU, numpy sorts rows many times faster than torch.
    return torch.from_numpy(np.sort(projected.numpy()))


def projected_distance(first: Tensor, second: Tensor) -> float:
    """Return sliced W1 between two sets of samples, given their `sorted_projections`.

    Sliced W1 estimates the expectation over unit vectors theta of W1(<theta, x>, <theta, y>)
    (Bonneel et al. 2015, doi 10.1007/s10851-014-0506-3, with p = 1), and never exceeds W1. On a
    line, the cheapest assignment pairs sorted points, so sliced W1 is the mean distance within the
    pairs. Raises ValueError if the shapes differ or there are no samples.
    """
    if first.shape != second.shape or first.numel() == 0:
        raise ValueError(
            f"projections of equal shape are needed, not {list(first.shape)} and"
            f" {list(second.shape)}"
        )
    distances = (first - second).abs()
    # numpy and torch add in another order. Results on the CPU keep numpy's last bits.
    return float(distances.mean() if distances.is_cuda else distances.numpy().mean())


# Kept, because every evaluation uses the same lines.
@lru_cache(maxsize=1)
def _directions(draws: Draws, width: int, projections: int) -> Tensor:
    """Return random unit vectors as columns, (width, projections), on the CPU."""
    directions = draws.numpy().standard_normal((width, projections))
    directions /= np.linalg.norm(directions, axis=0)
    return torch.from_numpy(directions)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the distances between all rows, (n, m), each accurate to nine digits.

    If a row has a distance so small that rounding matters, `cdist` computes the row exactly.
    """
    squared, slack = squared_distances(first, second)
    # Also True for rows whose squares overflowed. Some rows at a time, because another (n, m) of
    # temporary numbers would be half as much memory again.
    parts = zip(slack.split(_ROWS), squared.split(_ROWS), strict=True)
    near = indices_where(torch.cat([~(s < 1e-9 * q).all(dim=1) for s, q in parts]))
    del slack
    distances = squared.sqrt_()
    if len(near) > 0:
        distances[near] = torch.cdist(first[near], second, compute_mode=EXACT)
    return distances

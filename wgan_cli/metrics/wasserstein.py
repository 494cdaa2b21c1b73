"""Wasserstein distances between samples: exact, and sliced, which is cheaper."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wgan_cli.metrics.distances import EXACT, finite_rows, squared_distances
from wgan_cli.randomness import Draws

# The medians in `exact_wasserstein` are taken of about this many rows or columns.
_MEDIAN_OF = 64


def exact_wasserstein(first: Tensor, second: Tensor) -> float:
    """Return W1 between two samples of equal size under the Euclidean distance, in their units.

    It is the mean cost of the cheapest one-to-one assignment, the optimal transport plan between
    equal weights, in float64. Samples are (n, ...) and are flattened. Raises ValueError for unequal
    sizes and for NaN or infinite values.
    """
    from scipy.optimize import linear_sum_assignment

    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"two samples of equal shape are needed, not {list(first.shape)} and"
            f" {list(second.shape)}"
        )
    first, second = finite_rows(first), finite_rows(second)
    costs = _distances(first, second).numpy()
    # Subtracting a constant from a row or column does not change the best assignment. It makes the
    # search several times faster if generated samples are similar, and so the costs in a column.
    # Use medians: with a mean, one very distant sample would make rounding hide the other costs.
    stride = max(1, len(costs) // _MEDIAN_OF)
    costs -= np.median(costs[:, ::stride], axis=1, keepdims=True)
    costs -= np.median(costs[::stride], axis=0)
    rows, columns = linear_sum_assignment(costs)
    return float((first[rows] - second[columns]).norm(dim=1).mean())


def sorted_projections(samples: Tensor, draws: Draws, projections: int = 512) -> np.ndarray:
    """Project samples (n, ...) to random lines and sort them along each, (projections, n).

    The same `draws` give the same lines. Raises ValueError for NaN or infinite values.
    """
    rows = finite_rows(samples)
    # POT's `ot.sliced_wasserstein_distance` gives the same number, but its import takes 2 seconds.
    directions = draws.numpy().standard_normal((rows.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    # numpy sorts rows many times faster than torch sorts columns.
    return np.sort((torch.from_numpy(directions).T @ rows.T).numpy())


def projected_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return sliced W1 of two sets of samples, given their `sorted_projections`, in their units.

    It estimates the expectation over unit vectors theta of W1(<theta, x>, <theta, y>) (Bonneel et
    al. 2015, doi 10.1007/s10851-014-0506-3, with p = 1), and never exceeds W1. On a line, pairing
    sorted points is the cheapest assignment, so it is the mean distance of the pairs. Raises
    ValueError for unequal shapes and for no samples.
    """
    if first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"projections of equal shape are needed, not {first.shape} and {second.shape}"
        )
    return float(np.abs(first - second).mean())


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the distances between all rows, (n, m), each accurate to nine digits.

    Rows with a neighbour so near that rounding would matter are computed by exact `cdist`.
    """
    squared, slack = squared_distances(first, second)
    # True for a square that overflowed, too.
    near = ~(slack < 1e-9 * squared).all(dim=1)
    distances = squared.sqrt_()
    if near.any():
        distances[near] = torch.cdist(first[near], second, compute_mode=EXACT)
    return distances

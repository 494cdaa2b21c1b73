"""Wasserstein distances between samples: exact, and sliced for where exact is too dear."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wgan_cli.randomness import Draws

_LOOKED_AT = 64


def exact_wasserstein(first: Tensor, second: Tensor) -> float:
    """W1 between two equally large samples under the Euclidean distance, in the samples' units.

    The cheapest one-to-one assignment, which is the optimal transport plan between equal weights;
    computed in float64. Shapes (n, ...), flattened. Raises ValueError for unequal sizes and for
    NaN or infinite values.
    """
    from scipy.optimize import linear_sum_assignment

    first, second = _pair(first, second)
    costs = _distances(first, second).numpy()
    # A number taken from a whole row or column changes no assignment. The search is several times
    # shorter where generated samples are much alike, for then a column's costs nearly are too.
    # Medians, of some of them: with a mean, one sample very far away would round off all others.
    every = max(1, len(costs) // _LOOKED_AT)
    costs -= np.median(costs[:, ::every], axis=1, keepdims=True)
    costs -= np.median(costs[::every], axis=0)
    rows, columns = linear_sum_assignment(costs)
    return float((first[rows] - second[columns]).norm(dim=1).mean())


def sliced_wasserstein(
    first: Tensor, second: Tensor, draws: Draws, projections: int = 512
) -> float:
    """Sliced W1: the mean W1 of the samples' projections to random lines, in the samples' units.

    The expectation over unit directions theta of W1(<theta, x>, <theta, y>) (Bonneel et al. 2015,
    doi 10.1007/s10851-014-0506-3, with p = 1), estimated by `projections` directions from `draws`;
    never above W1 itself. Computed in float64. Shapes (n, ...), flattened. Raises ValueError for
    unequal sizes and for NaN or infinite values.
    """
    first, second = _pair(first, second)
    return projected_distance(
        *(sorted_projections(side, draws, projections) for side in (first, second))
    )


def sorted_projections(samples: Tensor, draws: Draws, projections: int = 512) -> np.ndarray:
    """The samples (n, ...), flattened, projected to random lines: sorted, (projections, n).

    The same `draws` give the same lines. Raises ValueError for NaN or infinite values.
    """
    rows = _rows(samples)
    # POT's `ot.sliced_wasserstein_distance` gives the same number; importing it takes 2 seconds.
    directions = draws.numpy().standard_normal((rows.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    # numpy sorts rows many times faster than torch columns.
    return np.sort((torch.from_numpy(directions).T @ rows.T).numpy())


def projected_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Sliced W1 of two sets by their `slices`: in one dimension sorted pairs are the cheapest.

    Raises ValueError for unequal shapes and for no samples.
    """
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"slices of one size are needed, not {first.shape}, {second.shape}")
    return float(np.abs(first - second).mean())


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """Every distance between rows, (n, m), each right to nine digits.

    By a matrix product, more than ten times faster than `cdist` without one on images. Rows with a
    neighbour so near that the product's rounding shows are measured by that.
    """
    sizes = first.square().sum(dim=1)[:, None] + second.square().sum(dim=1)
    squared = torch.addmm(sizes, first, second.T, alpha=-2)
    # As in `neighbours`: what the rounding of a sum of d products can come to.
    slack = sizes.mul_(4 * (first.shape[1] + 8) * torch.finfo(torch.float64).eps)
    # Also where a square has overflowed.
    near = ~(slack < 1e-9 * squared).all(dim=1)
    distances = squared.sqrt_()
    if near.any():
        mode = "donot_use_mm_for_euclid_dist"
        distances[near] = torch.cdist(first[near], second, compute_mode=mode)
    return distances


def _pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples as float64 rows on the CPU."""
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"two samples of one size are needed, not {list(first.shape)}, {list(second.shape)}"
        )
    return _rows(first), _rows(second)


def _rows(samples: Tensor) -> Tensor:
    rows = samples.detach().flatten(1).double().cpu()
    if not rows.isfinite().all():
        raise ValueError("the samples hold NaN or infinite values")
    return rows

"""Exact Wasserstein distances between samples."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def exact_wasserstein(first: Tensor, second: Tensor) -> float:
    """W1 between two equally large samples under the Euclidean distance, in the samples' units.

    The cheapest one-to-one assignment, which is the optimal transport plan between equal weights;
    computed in float64. Shapes (n, ...), flattened. Raises ValueError for unequal sizes and for
    NaN or infinite values.
    """
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"two samples of one size are needed, not {list(first.shape)}, {list(second.shape)}"
        )
    costs = torch.cdist(_rows(first), _rows(second), compute_mode="donot_use_mm_for_euclid_dist")
    matrix = costs.numpy()
    rows, columns = linear_sum_assignment(matrix)
    return float(matrix[rows, columns].mean())


def _rows(samples: Tensor) -> Tensor:
    rows = samples.detach().flatten(1).double().cpu()
    if not rows.isfinite().all():
        raise ValueError("the samples hold NaN or infinite values")
    return rows

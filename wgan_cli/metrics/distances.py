"""Euclidean distances between samples, computed fast and with a bound on the rounding error."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.float64 import in_float64

# A mode of `torch.cdist`. The faster modes use matrix products, and rounding errors then give
# equal samples a distance above 0.
EXACT = "donot_use_mm_for_euclid_dist"


def finite_rows(samples: Tensor) -> Tensor:
    """Return samples as float64 rows (n, d), on their device if it has float64.

    Raises ValueError for NaN or infinity.
    """
    rows = in_float64(samples.detach().flatten(1))
    if not rows.isfinite().all():
        raise ValueError("the samples hold NaN or infinite values")
    return rows


def squared_distances(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return all squared distances (n, m), and a bound on the rounding error of each, (n, m).

    The distances are computed by a matrix product. For samples with many dimensions, this is tens
    of times faster than exact `cdist`. The bound also covers the rounding error of `cdist`, and
    holds for products that add in any order, so on CUDA too.
    """
    sizes = rows.square().sum(dim=1)[:, None] + columns.square().sum(dim=1)
    squared = torch.addmm(sizes, rows, columns.T, alpha=-2)
    # The rounding error of a sum of d products is at most d/2 eps times the sum of their absolute
    # values, here at most |x|^2 + |y|^2. The slack is several times this bound.
    slack = sizes.mul_(4 * (rows.shape[1] + 8) * torch.finfo(torch.float64).eps)
    return squared, slack


def indices_where(condition: Tensor) -> Tensor:
    """Return the indices at which a vector of bools is true.

    On CUDA, this waits for the device once; indexing by bools would wait at every use.
    """
    return condition.nonzero()[:, 0]

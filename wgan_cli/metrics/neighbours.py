"""Precision and recall of generated samples by nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

# The faster mode by matrix products leaves equal samples a little apart.
_EXACT = "donot_use_mm_for_euclid_dist"
# Numbers in one array: 64 MB in float64; a few such arrays live at once.
_AT_ONCE = 2**23


def precision_recall(
    real: Tensor, fake: Tensor, k: int = 3, real_radii: Tensor | None = None
) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991, section 3) in the samples' own space.

    Each sample stands for the ball around it that reaches its k-th nearest other sample of its set.
    Precision is the share of fakes inside a real ball, recall the share of reals inside a fake one.
    Shapes (n, ...), flattened. `real_radii` are `ball_radii(real, k)`, where they are known. Memory
    grows with n times the width, never with n squared. Raises ValueError for sets of k or fewer and
    for NaN or infinity.
    """
    if real_radii is None:
        real_radii = ball_radii(real, k)
    fake_radii = ball_radii(fake, k)
    real, fake = _rows(real), _rows(fake)
    if not real.isfinite().all():
        raise ValueError("the samples hold NaN or infinite values")
    inside_real, inside_fake = _covered(real, fake, real_radii, fake_radii)
    return float(inside_real.double().mean()), float(inside_fake.double().mean())


def ball_radii(samples: Tensor, k: int = 3) -> Tensor:
    """Each sample's distance (n,) to its k-th nearest other sample.

    Shape (n, ...), flattened. Raises ValueError for k samples or fewer and for NaN or infinity.
    """
    samples = _rows(samples)
    if len(samples) <= k:
        raise ValueError(f"more than k={k} samples of each kind are needed")
    if not samples.isfinite().all():
        raise ValueError("the samples hold NaN or infinite values")
    found = []
    count = min(2 * (k + 1), len(samples))
    for rows in samples.split(_rows_at_once(max(len(samples), count * samples.shape[1]))):
        low, high = _squared_bounds(rows, samples)
        # The nearest is the sample itself, at distance 0.
        nearest = low.topk(count, dim=1, largest=False)
        chosen = torch.cdist(rows[:, None], samples[nearest.indices], compute_mode=_EXACT)[:, 0]
        radii = chosen.kthvalue(k + 1, dim=1).values
        # At least k + 1 samples are this near, so none that surely lies further can matter.
        reach = high.gather(1, nearest.indices[:, : k + 1]).amax(dim=1)
        undecided = ~(nearest.values[:, -1] > reach)
        if count < len(samples) and undecided.any():
            distances = torch.cdist(rows[undecided], samples, compute_mode=_EXACT)
            radii[undecided] = distances.kthvalue(k + 1, dim=1).values
        found.append(radii)
    return torch.cat(found)


def _covered(
    real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether each fake lies in a real ball, and each real in a fake one, edges included.

    Shapes (n, d), (m, d) and radii (n,), (m,) give (m,), (n,).
    """
    found = []
    inside = torch.zeros(len(real), dtype=torch.bool)
    perhaps = inside.clone()
    real_squares = real_radii.square()
    at_once = _rows_at_once(len(real))
    for rows, squares in zip(fake.split(at_once), fake_radii.square().split(at_once), strict=True):
        low, high = _squared_bounds(rows, real)
        found.append(
            _settled(
                (high < real_squares).any(dim=1),
                ~(low > real_squares).all(dim=1),
                rows,
                real,
                real_radii,
            )
        )
        inside |= (high < squares[:, None]).any(dim=0)
        perhaps |= ~(low > squares[:, None]).all(dim=0)
    return torch.cat(found), _settled(inside, perhaps, real, fake, fake_radii)


def _settled(
    surely: Tensor, perhaps: Tensor, samples: Tensor, centres: Tensor, radii: Tensor
) -> Tensor:
    """Whether each sample lies in a centre's ball: by exact distances where that is open."""
    undecided = (perhaps & ~surely).nonzero()[:, 0]
    for places in undecided.split(_rows_at_once(len(centres))):
        distances = torch.cdist(samples[places], centres, compute_mode=_EXACT)
        surely[places] = (distances <= radii).any(dim=1)
    return surely


def _squared_bounds(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What every squared distance surely lies between.

    By a matrix product, tens of times faster than `cdist` without one on wide features, and widened
    by what its rounding and `cdist`'s can come to; only what stays undecided need be exact.
    """
    sizes = rows.square().sum(dim=1)[:, None] + columns.square().sum(dim=1)
    squared = torch.addmm(sizes, rows, columns.T, alpha=-2)
    # A sum of d products is off by at most d/2 eps times the sum of their sizes, and the sizes come
    # to |x|^2 + |y|^2 here; 4 times that is ample.
    slack = sizes.mul_(4 * (rows.shape[1] + 8) * torch.finfo(torch.float64).eps)
    return squared - slack, squared + slack


def _rows(samples: Tensor) -> Tensor:
    return samples.detach().flatten(1).double().cpu()


def _rows_at_once(numbers_a_row: int) -> int:
    return max(1, _AT_ONCE // numbers_a_row)

"""How samples cover the data: improved precision and recall, and modes of a Gaussian mixture."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.float64 import in_float64
from wgan_cli.metrics.distances import EXACT, finite_rows, indices_where, squared_distances

# The largest number of elements of a temporary array (64 MB in float64). A few arrays exist at
# once.
_MAX_NUMBERS = 2**23
_RADIUS_IN_STD = 3.0


def precision_recall(
    real: Tensor, fake: Tensor, k: int = 3, real_radii: Tensor | None = None
) -> tuple[float, float]:
    """Return improved precision and recall (arXiv 1904.06991, section 3) of samples or features.

    Each sample is the centre of a ball that reaches to the k-th nearest neighbour in the same set.
    Precision is the fraction of fake samples inside a real ball. Recall is the fraction of real
    samples inside a fake ball. Samples are (n, ...) and are flattened. If `ball_radii(real, k)` is
    known, pass it as `real_radii`. Memory grows with n times d, not with n squared. Raises
    ValueError for NaN or infinity, and for sets of k or fewer samples.
    """
    if real_radii is None:
        real_radii = ball_radii(real, k)
    fake_radii = ball_radii(fake, k)
    real, fake = finite_rows(real), finite_rows(fake)
    inside_real, inside_fake = _inside_balls(real, fake, real_radii, fake_radii)
    return float(in_float64(inside_real).mean()), float(in_float64(inside_fake).mean())


def ball_radii(samples: Tensor, k: int = 3) -> Tensor:
    """Return the distance of each sample to its k-th nearest neighbour, (n,).

    Samples (n, ...) are flattened. The distances are on the device of the samples. Raises
    ValueError for NaN, infinity, and k or fewer samples.
    """
    samples = finite_rows(samples)
    if len(samples) <= k:
        raise ValueError(f"more than k={k} samples of each kind are needed")
    all_radii = []
    count = min(2 * (k + 1), len(samples))
    for rows in samples.split(_rows_at_once(max(len(samples), count * samples.shape[1]))):
        low, high = _squared_bounds(rows, samples)
        # Use k + 1 below, because each sample is its own nearest neighbour, at distance 0.
        nearest = low.topk(count, dim=1, largest=False)
        chosen = torch.cdist(rows[:, None], samples[nearest.indices], compute_mode=EXACT)[:, 0]
        radii = _kth_smallest(chosen, k + 1)
        # At least k + 1 samples lie within `reach`, so samples beyond it do not matter.
        reach = high.gather(1, nearest.indices[:, : k + 1]).amax(dim=1)
        undecided = indices_where(~(nearest.values[:, -1] > reach))
        if count < len(samples) and len(undecided) > 0:
            distances = torch.cdist(rows[undecided], samples, compute_mode=EXACT)
            radii[undecided] = _kth_smallest(distances, k + 1)
        all_radii.append(radii)
    return torch.cat(all_radii)


def modes_found(samples: Tensor, centres: Tensor, std: float) -> int:
    """Return the number of modes with at least one sample within 3 std of the centre.

    Samples are (n, k), centres (m, k). Raises ValueError for NaN or infinite values, for unequal k,
    and if there are no samples or centres.
    """
    distances = _distances_to_centres(samples, centres, std)
    return int((distances <= _RADIUS_IN_STD * std).any(dim=0).sum())


def share_within(
    samples: Tensor, centres: Tensor, std: float, radius: float = _RADIUS_IN_STD
) -> float:
    """Return the fraction of samples within `radius` std of the nearest centre.

    For samples of the mixture in the plane, the fraction is 1 - exp(-radius^2 / 2): 0.989 at 3 std.
    Samples are (n, k), centres (m, k). Raises ValueError as `modes_found` does.
    """
    nearest = _distances_to_centres(samples, centres, std).amin(dim=1)
    return float(in_float64(nearest <= radius * std).mean())


def _distances_to_centres(samples: Tensor, centres: Tensor, std: float) -> Tensor:
    """Return the distance of every sample to every centre, (n, m)."""
    samples = in_float64(samples.detach())
    centres = centres.detach().to(samples.device, torch.float64)
    if samples.ndim != 2 or centres.ndim != 2 or samples.shape[1] != centres.shape[1]:
        raise ValueError(
            f"samples and centres of equal width are needed, not {list(samples.shape)} and"
            f" {list(centres.shape)}"
        )
    if min(len(samples), len(centres)) == 0:
        raise ValueError("at least one sample and one centre are needed")
    if not (samples.isfinite().all() and centres.isfinite().all()):
        raise ValueError("the samples or centres hold NaN or infinite values")
    if not 0 < std < float("inf"):
        raise ValueError(f"std must be above 0, not {std}")
    return torch.cdist(samples, centres, compute_mode=EXACT)


def _inside_balls(
    real: Tensor, fake: Tensor, real_radii: Tensor, fake_radii: Tensor
) -> tuple[Tensor, Tensor]:
    """Return whether each fake sample is in a real ball (m,), and each real in a fake ball (n,).

    Samples are (n, d) and (m, d), their radii (n,) and (m,). A ball includes its surface.
    """
    inside_real = []
    inside_fake = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    maybe_inside_fake = inside_fake.clone()
    real_squares = real_radii.square()
    at_once = _rows_at_once(len(real))
    for rows, squares in zip(fake.split(at_once), fake_radii.square().split(at_once), strict=True):
        low, high = _squared_bounds(rows, real)
        surely = (high < real_squares).any(dim=1)
        perhaps = ~(low > real_squares).all(dim=1)
        inside_real.append(_decide(surely, perhaps, rows, real, real_radii))
        inside_fake |= (high < squares[:, None]).any(dim=0)
        maybe_inside_fake |= ~(low > squares[:, None]).all(dim=0)
    return torch.cat(inside_real), _decide(inside_fake, maybe_inside_fake, real, fake, fake_radii)


def _decide(
    surely: Tensor, perhaps: Tensor, samples: Tensor, centres: Tensor, radii: Tensor
) -> Tensor:
    """Return whether each sample lies in a centre's ball; exact distances decide unclear cases."""
    undecided = indices_where(perhaps & ~surely)
    for indices in undecided.split(_rows_at_once(len(centres))):
        distances = torch.cdist(samples[indices], centres, compute_mode=EXACT)
        surely[indices] = (distances <= radii).any(dim=1)
    return surely


def _kth_smallest(distances: Tensor, k: int) -> Tensor:
    """Return the k-th smallest distance of each row."""
    # Not `kthvalue`: for a small k it is several times slower, and some versions of torch refuse it
    # on CUDA under deterministic=true.
    return distances.topk(k, dim=1, largest=False).values[:, -1]


def _squared_bounds(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return a lower and an upper bound of every squared distance, (n, m) each."""
    squared, slack = squared_distances(rows, columns)
    return squared - slack, squared + slack


def _rows_at_once(numbers_per_row: int) -> int:
    return max(1, _MAX_NUMBERS // numbers_per_row)

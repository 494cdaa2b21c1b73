"""Which modes of a known mixture of Gaussians the samples reach."""

from __future__ import annotations

import torch
from torch import Tensor

_RADIUS = 3.0


def modes_found(samples: Tensor, centres: Tensor, std: float) -> int:
    """The number of modes with at least one sample within 3 std of the centre.

    Samples (n, k), centres (m, k), in the units of `std`. Raises ValueError for NaN or infinite
    values, for no samples or centres, and for unequal widths.
    """
    distances = _distances(samples, centres, std)
    return int((distances <= _RADIUS * std).any(dim=0).sum())


def share_within(samples: Tensor, centres: Tensor, std: float, radius: float = _RADIUS) -> float:
    """The share of samples within `radius` std of their nearest mode's centre.

    In the plane a mixture's own share is 1 - exp(-radius^2 / 2), 0.989 at 3 std. Samples (n, k),
    centres (m, k). Raises ValueError as `modes_found` does.
    """
    nearest = _distances(samples, centres, std).amin(dim=1)
    return float((nearest <= radius * std).double().mean())


def _distances(samples: Tensor, centres: Tensor, std: float) -> Tensor:
    """Every sample's distance to every centre, (n, m)."""
    samples, centres = (points.detach().double().cpu() for points in (samples, centres))
    if samples.ndim != 2 or centres.ndim != 2 or samples.shape[1] != centres.shape[1]:
        raise ValueError(
            f"points and centres of one width are needed, not {list(samples.shape)},"
            f" {list(centres.shape)}"
        )
    if min(len(samples), len(centres)) == 0:
        raise ValueError("at least one sample and one centre are needed")
    if not (samples.isfinite().all() and centres.isfinite().all()):
        raise ValueError("the samples or centres hold NaN or infinite values")
    if not 0 < std < float("inf"):
        raise ValueError(f"std must be above 0, not {std}")
    return torch.cdist(samples, centres, compute_mode="donot_use_mm_for_euclid_dist")

"""Metrics of how well samples cover the modes of a known mixture of Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.metrics.distances import EXACT

_RADIUS_IN_STD = 3.0


def modes_found(samples: Tensor, centres: Tensor, std: float) -> int:
    """Return the number of modes with at least one sample within 3 std of the centre.

    Samples are (n, k), centres (m, k). Raises ValueError for NaN or infinite values, for unequal k,
    and if there are no samples or centres.
    """
    distances = _distances(samples, centres, std)
    return int((distances <= _RADIUS_IN_STD * std).any(dim=0).sum())


def share_within(
    samples: Tensor, centres: Tensor, std: float, radius: float = _RADIUS_IN_STD
) -> float:
    """Return the fraction of samples within `radius` std of the nearest centre.

    For samples of the mixture in the plane, the fraction is 1 - exp(-radius^2 / 2): 0.989 at 3 std.
    Samples are (n, k), centres (m, k). Raises ValueError as `modes_found` does.
    """
    nearest = _distances(samples, centres, std).amin(dim=1)
    return float((nearest <= radius * std).double().mean())


def _distances(samples: Tensor, centres: Tensor, std: float) -> Tensor:
    """Return the distance of every sample to every centre, (n, m)."""
    samples, centres = (points.detach().double().cpu() for points in (samples, centres))
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

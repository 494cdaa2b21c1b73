"""Precision and recall of generated samples by nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

# The faster mode by matrix products leaves equal samples a little apart.
_EXACT = "donot_use_mm_for_euclid_dist"


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991, section 3) in the samples' own space.

    Each sample stands for the ball around it that reaches its k-th nearest other sample of its set.
    Precision is the share of fakes inside a real ball, recall the share of reals inside a fake one.
    Shapes (n, ...), flattened. Raises ValueError for sets of k or fewer and for NaN or infinity.
    """
    real, fake = (samples.detach().flatten(1).double().cpu() for samples in (real, fake))
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"more than k={k} samples of each kind are needed")
    if not (real.isfinite().all() and fake.isfinite().all()):
        raise ValueError("the samples hold NaN or infinite values")
    between = torch.cdist(real, fake, compute_mode=_EXACT)
    precision = (between <= _radii(real, k)[:, None]).any(dim=0)
    recall = (between <= _radii(fake, k)[None, :]).any(dim=1)
    return float(precision.double().mean()), float(recall.double().mean())


def _radii(samples: Tensor, k: int) -> Tensor:
    """Each sample's distance to its k-th nearest other sample."""
    distances = torch.cdist(samples, samples, compute_mode=_EXACT)
    # The nearest is the sample itself, at distance 0.
    return distances.kthvalue(k + 1, dim=1).values

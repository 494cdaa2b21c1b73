"""Distances and scores from a classifier's features, logits and classes.

All but `class_divergence` are torch-fidelity's own functions, in float64, behind checks: on broken
or constant samples those return a number that means nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

# torch-fidelity's default; it chooses the subsets of KID and the splits of the Inception Score.
_SEED = 2020


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """The Frechet distance of Gaussians fitted to two sets of features (arXiv 1706.08500, eq. 6).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) with unbiased covariances; on Inception's features
    the FID. Biased upwards for few samples: compare only at one n. Features (n, d), (m, d). Raises
    ValueError for NaN or infinity, fewer than 2 samples, unequal widths and samples all equal.
    """
    real, fake = _pair(real, fake)
    from torch_fidelity import metric_fid

    found = metric_fid.fid_statistics_to_metric(_statistics(real), _statistics(fake), verbose=False)
    # Rounding leaves a set a little below 0 from itself.
    return max(0.0, float(found[metric_fid.KEY_METRIC_FID]))


def _statistics(features: Tensor) -> dict[str, Any]:
    import numpy as np
    from torch_fidelity import metric_fid

    statistics: dict[str, Any] = metric_fid.fid_features_to_statistics(features)
    # The covariance of one feature comes as a bare number.
    statistics["sigma"] = np.atleast_2d(statistics["sigma"])
    return statistics


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """The squared MMD of two sets of features (arXiv 1801.01401, eq. 4); on Inception's, the KID.

    Kernel (<x, y> / d + 1)^3, unbiased, so about 0 and sometimes below it for equal distributions.
    The mean over 100 random subsets of 1,000, or of the smaller set's size. Features (n, d), (m,
    d). Raises ValueError as `frechet_distance` does.
    """
    real, fake = _pair(real, fake)
    from torch_fidelity import metric_kid

    size = min(1000, len(real), len(fake))
    found = metric_kid.kid_features_to_metric(
        real,
        fake,
        kid_subset_size=size,
        # Where each subset would be all samples, one is enough.
        kid_subsets=1 if len(real) == len(fake) == size else 100,
        rng_seed=_SEED,
        verbose=False,
    )
    return float(found[metric_kid.KEY_METRIC_KID_MEAN])


def inception_score(logits: Tensor) -> float:
    """exp(E[KL(p(y|x) || p(y))]) of the classes in the logits (arXiv 1606.03498, section 4).

    From 1 to the number of classes. The mean over 10 random splits, as published scores are, where
    each gets 100 samples or more: below n = 1,000 n // 100 splits, below 200 one. Logits (n,
    classes). Raises ValueError for NaN or infinity, fewer than 2 samples and samples all equal.
    """
    logits = _features(logits)
    from torch_fidelity import metric_isc

    # A class of probability exactly 0 in every sample would make the score NaN; exp(-700) is the
    # least that float64 can tell from it.
    logits = (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-700)
    found = metric_isc.isc_features_to_metric(
        logits, splits=max(1, min(10, len(logits) // 100)), rng_seed=_SEED
    )
    return float(found[metric_isc.KEY_METRIC_ISC_MEAN])


def class_divergence(counts: Tensor, reference: Tensor) -> float:
    """KL(p || q) in nats of two class histograms: how unevenly samples fall on the classes.

    `counts` gives p, `reference` q; shapes (classes,), not negative. Raises ValueError for unequal
    lengths, for an empty histogram, and where q has nothing in a class in which p has something
    (KL is infinite).
    """
    p, q = (histogram.detach().double().cpu() for histogram in (counts, reference))
    if p.ndim != 1 or p.shape != q.shape:
        raise ValueError(
            f"two histograms of the same classes are needed, not {list(p.shape)}, {list(q.shape)}"
        )
    if not (p.isfinite().all() and q.isfinite().all()) or (p < 0).any() or (q < 0).any():
        raise ValueError("a class count is negative, NaN or infinite")
    if p.sum() == 0 or q.sum() == 0:
        raise ValueError("a histogram counts no samples at all")
    if ((p > 0) & (q == 0)).any():
        raise ValueError("the reference has no samples in a class that is to be compared")
    p, q = p / p.sum(), q / q.sum()
    present = p > 0
    return max(0.0, float((p[present] * (p[present] / q[present]).log()).sum()))


def _pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    real, fake = _features(real), _features(fake)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features of one width are needed, not {real.shape[1]} and {fake.shape[1]}"
        )
    return real, fake


def _features(features: Tensor) -> Tensor:
    """The features as float64 on the CPU, where they can be measured."""
    features = features.detach().double().cpu()
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features of shape (n, d) are needed, not {list(features.shape)}")
    if len(features) < 2:
        raise ValueError(f"at least 2 samples are needed, not {len(features)}")
    if not features.isfinite().all():
        raise ValueError("the samples hold NaN or infinite values")
    if (features == features[0]).all():
        raise ValueError("all samples are equal")
    return features

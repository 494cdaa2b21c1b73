"""Distances and scores from a classifier's features, logits and classes.

All functions compute in float64. They check the samples first, because torch-fidelity returns
meaningless numbers for NaN or constant samples. On the CPU, all except `class_divergence` call
torch-fidelity. Its covariances and kernels need numpy, so samples on CUDA have functions of their
own with the same results, except for rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgan_cli.float64 import in_float64

# torch-fidelity's default seed, for the subsets of KID and the splits of the Inception Score.
_SEED = 2020


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Frechet distance of Gaussians fitted to two sets of features (arXiv 1706.08500).

    The distance is |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) with unbiased covariances (equation
    6). On Inception's features, it is the FID. It is biased upwards for few samples, so compare
    only values from equal numbers of samples. Features are (n, d) and (m, d). Raises ValueError for
    NaN or infinity, for fewer than 2 samples, for unequal d, and if all samples of a set are equal.
    """
    real, fake = _pair(real, fake)
    from torch_fidelity import metric_fid

    estimate = _statistics if real.is_cuda else metric_fid.fid_features_to_statistics
    statistics = [estimate(features) for features in (real, fake)]
    for each in statistics:
        # For a single feature, torch-fidelity returns the covariance as a scalar.
        each["sigma"] = np.atleast_2d(each["sigma"])
    # On the CPU for every device: the matrices are small, and their product is not symmetric.
    result = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    # Rounding can make the distance of a set to itself slightly negative.
    return max(0.0, float(result[metric_fid.KEY_METRIC_FID]))


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Return the squared MMD of two sets of features (arXiv 1801.01401, equation 4).

    On Inception's features, this is the KID. The kernel is (<x, y> / d + 1)^3. The estimate is
    unbiased: for equal distributions it is near 0 and may be negative. The result is the mean over
    100 random subsets. A subset has 1,000 samples, or as many as the smaller set. Features are (n,
    d) and (m, d). Raises ValueError as `frechet_distance` does.
    """
    real, fake = _pair(real, fake)
    from torch_fidelity import metric_kid

    size = min(1000, len(real), len(fake))
    # If a subset contains all samples, one subset is enough.
    subsets = 1 if len(real) == len(fake) == size else 100
    if real.is_cuda:
        return _mean_over_subsets(real, fake, size, subsets)
    result = metric_kid.kid_features_to_metric(
        real,
        fake,
        kid_subset_size=size,
        kid_subsets=subsets,
        rng_seed=_SEED,
        verbose=False,
    )
    return float(result[metric_kid.KEY_METRIC_KID_MEAN])


def inception_score(logits: Tensor) -> float:
    """Return exp(E[KL(p(y|x) || p(y))]) with p(y|x) from the logits (arXiv 1606.03498).

    The score lies between 1 and the number of classes. Like published scores, it is the mean over
    10 random splits. For n < 1,000 there are max(1, n // 100) splits, so that a split has 100
    samples if possible. Logits are (n, classes). Raises ValueError for NaN or infinity, for fewer
    than 2 samples, and if all samples are equal.
    """
    logits = _features(logits)
    from torch_fidelity import metric_isc

    # A class with probability exactly 0 in every sample would make the score NaN. exp(-700) is near
    # the smallest number that float64 distinguishes from 0.
    logits = (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-700)
    result = metric_isc.isc_features_to_metric(
        logits, splits=max(1, min(10, len(logits) // 100)), rng_seed=_SEED
    )
    return float(result[metric_isc.KEY_METRIC_ISC_MEAN])


def class_divergence(counts: Tensor, reference: Tensor) -> float:
    """Return KL(p || q) in nats of two class histograms; 0 if the class frequencies are equal.

    p is the normalised `counts`, q the normalised `reference`, both (classes,) and not negative.
    Raises ValueError for unequal lengths, an empty histogram, and an infinite KL (q = 0 but p > 0).
    """
    p, q = (histogram.detach().cpu().double() for histogram in (counts, reference))
    if p.ndim != 1 or p.shape != q.shape:
        raise ValueError(
            f"two histograms of equal length are needed, not {list(p.shape)} and {list(q.shape)}"
        )
    if not (p.isfinite().all() and q.isfinite().all()) or (p < 0).any() or (q < 0).any():
        raise ValueError("a class count is negative, NaN or infinite")
    if p.sum() == 0 or q.sum() == 0:
        raise ValueError("a histogram is empty")
    if ((p > 0) & (q == 0)).any():
        raise ValueError("the reference has no samples in a class that the other histogram has")
    p, q = p / p.sum(), q / q.sum()
    present = p > 0
    return max(0.0, float((p[present] * (p[present] / q[present]).log()).sum()))


def _statistics(features: Tensor) -> dict[str, Any]:
    """Return the mean (d,) and the unbiased covariance (d, d) of features (n, d), as numpy arrays.

    The sums are computed on the device of the features.
    """
    mean = features.mean(dim=0)
    centred = features - mean
    sigma = centred.T @ centred / (len(features) - 1)
    return {"mu": mean.cpu().numpy(), "sigma": sigma.cpu().numpy()}


def _mean_over_subsets(real: Tensor, fake: Tensor, size: int, subsets: int) -> float:
    """Return the mean squared MMD of random subsets, computed on the device of the features.

    The subsets are those that torch-fidelity draws.
    """
    rng = np.random.RandomState(_SEED)
    lengths = (len(real), len(fake))
    drawn = [rng.choice(n, size, replace=False) for _ in range(subsets) for n in lengths]
    indices = torch.from_numpy(np.stack(drawn)).to(real.device)
    distances = [_squared_mmd(real[i], fake[j]) for i, j in indices.unflatten(0, (subsets, 2))]
    return float(torch.stack(distances).mean())


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate of two sets of n samples, (n, d) each, as a scalar."""
    size, width = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1) ** 3

    within = sum(k.sum() - k.diagonal().sum() for k in (kernel(x, x), kernel(y, y)))
    return within / (size * (size - 1)) - 2 * kernel(x, y).mean()


def _pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    real, fake = _features(real), _features(fake)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features of equal width are needed, not {real.shape[1]} and {fake.shape[1]}"
        )
    return real, fake


def _features(features: Tensor) -> Tensor:
    """Return the features as `in_float64`. Raises ValueError if they cannot be compared."""
    features = in_float64(features.detach())
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features of shape (n, d) are needed, not {list(features.shape)}")
    if len(features) < 2:
        raise ValueError(f"at least 2 samples are needed, not {len(features)}")
    if not features.isfinite().all():
        raise ValueError("the samples hold NaN or infinite values")
    if (features == features[0]).all():
        raise ValueError("all samples are equal")
    return features

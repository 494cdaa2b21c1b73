"""The functions that compute the metrics of `schema.METRICS`, and a data set's default metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.dataset import Dataset
from wgan_cli.evaluation.comparison import Comparison
from wgan_cli.evaluation.samples import SampleCounts
from wgan_cli.evaluation.sampling import BATCH, evaluating
from wgan_cli.metrics.classifier import SIDE
from wgan_cli.metrics.features import (
    class_divergence,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from wgan_cli.metrics.inception import available
from wgan_cli.metrics.lipschitz import layer_gradient_norms, weights_in_use
from wgan_cli.metrics.neighbours import modes_found, share_within
from wgan_cli.metrics.wasserstein import exact_wasserstein, projected_distance
from wgan_cli.pictures import class_histogram, layer_norms, weight_histogram
from wgan_cli.randomness import Draws, Stream
from wgan_cli.schema import METRICS

# With fewer held-out samples, feature statistics depend more on the sample count than on images.
_FEATURES_FROM = 2000


@dataclass(frozen=True)
class Metric:
    """Functions that compute a number, a picture or both from a comparison.

    If `count` is given, it names an attribute of `SampleCounts`, and the tag of the number ends
    with this sample count. `network` is the name of the feature network that the metric needs.
    `picture_tag` is the tag of the picture if it differs from the tag of the number.
    """

    number: Callable[[Comparison], float] | None = None
    picture: Callable[[Comparison], np.ndarray] | None = None
    count: str | None = None
    network: str | None = None
    picture_tag: str | None = None


def sized(tag: str, metric: Metric, counts: SampleCounts) -> str:
    """Return the tag, with any sample count: `_10k` for 10,000 and `_359` for 359 samples."""
    if metric.count is None:
        return tag
    count: int = getattr(counts, metric.count)
    return f"{tag}_{count // 1000}k" if count % 1000 == 0 else f"{tag}_{count}"


def _sliced(comparison: Comparison) -> float:
    draws = Draws(comparison.seed, Stream.EVALUATION, step=3)
    return projected_distance(
        comparison.candidate.sorted_projections(draws),
        comparison.reference.real.sorted_projections(draws),
    )


def _layer_norms(comparison: Comparison) -> np.ndarray:
    kinds = {"real": comparison.reference.real, "generated": comparison.candidate}
    curves = {}
    with evaluating(comparison.critic):
        for name, samples in kinds.items():
            labels = None if samples.labels is None else samples.labels[:BATCH]
            batch = samples.eval_set[:BATCH]
            curves[name] = layer_gradient_norms(comparison.critic, batch, labels)
    if not all(math.isfinite(norm) for curve in curves.values() for _, norm in curve):
        raise ValueError("the critic's gradients are NaN or infinite")
    return layer_norms(curves)


def _weights(comparison: Comparison) -> np.ndarray:
    critic, constraint = comparison.critic, comparison.constraint
    bounded = None if constraint is None else constraint.bounded_weights(critic)
    bound, weights = bounded or (None, list(weights_in_use(critic).values()))
    values = torch.cat([weight.detach().float().flatten() for weight in weights]).cpu()
    if not values.isfinite().all():
        raise ValueError("the critic's weights are NaN or infinite")
    return weight_histogram(values.numpy(), bound)


def _class_histogram(comparison: Comparison) -> np.ndarray:
    real = comparison.reference.class_counts
    return class_histogram(real.numpy(), comparison.class_counts.numpy())


def _modes(comparison: Comparison) -> tuple[Tensor, Tensor, float]:
    modes = comparison.reference.dataset.modes
    assert modes is not None
    return comparison.candidate.points, torch.from_numpy(modes.centres), modes.std


def _of_features(space: str) -> dict[str, Metric]:
    """Return the metrics of the feature network `space`, by tag."""
    numbers: dict[str, Callable[[Comparison], float]] = {
        "fid": lambda comparison: frechet_distance(*comparison.features(space)),
        "kid": lambda comparison: kernel_distance(*comparison.features(space)),
        "is": lambda comparison: inception_score(comparison.logits(space)),
        "precision": lambda comparison: comparison.neighbours(space)[0],
        "recall": lambda comparison: comparison.neighbours(space)[1],
    }
    return {
        f"metrics/{name}_{space}": Metric(number, count="feature_samples", network=space)
        for name, number in numbers.items()
    }


TABLE: dict[str, Metric] = {
    "critic/wasserstein_heldout": Metric(lambda comparison: comparison.estimate),
    "critic/lipschitz": Metric(lambda comparison: comparison.steepest_slope),
    "wasserstein/exact": Metric(
        lambda comparison: exact_wasserstein(comparison.fake, comparison.real)
    ),
    "wasserstein/sliced": Metric(_sliced),
    "wasserstein/normalized": Metric(lambda comparison: comparison.normalized),
    "critic/gradient_norms": Metric(picture=_layer_norms),
    "critic/weights": Metric(picture=_weights),
    "metrics/precision_pixel": Metric(
        lambda comparison: comparison.neighbours("pixel")[0], count="eval_samples"
    ),
    "metrics/recall_pixel": Metric(
        lambda comparison: comparison.neighbours("pixel")[1], count="eval_samples"
    ),
    "metrics/class_kl": Metric(
        lambda comparison: class_divergence(
            comparison.class_counts, comparison.reference.class_counts
        ),
        _class_histogram,
        count="feature_samples",
        network="classifier",
        picture_tag="metrics/classes",
    ),
    "metrics/classes_found": Metric(
        lambda comparison: int((comparison.class_counts > 0).sum()),
        count="feature_samples",
        network="classifier",
    ),
    **_of_features("classifier"),
    **_of_features("inception"),
    "metrics/modes_found": Metric(
        lambda comparison: modes_found(*_modes(comparison)), count="feature_samples"
    ),
    "metrics/share_within_3sigma": Metric(
        lambda comparison: share_within(*_modes(comparison)), count="feature_samples"
    ),
}


def data_kinds(dataset: Dataset) -> set[str]:
    """Return the kinds of data: samples, images, modes, and labels that a classifier can learn."""
    kinds = {"samples"}
    if len(dataset.sample_shape) == 3:
        kinds.add("images")
        large, labels = min(dataset.sample_shape[1:]) >= SIDE, dataset.labels
        if large and labels is not None and len(labels.train.unique()) > 1:
            kinds.add("labels")
    if dataset.modes is not None:
        kinds.add("modes")
    return kinds


def usual_metrics(dataset: Dataset) -> list[str]:
    """Return the tags of the default metrics in training: all fast metrics that apply.

    Metrics that need labels also need at least 2,000 held-out images, because they use the features
    of a classifier.
    """
    kinds = data_kinds(dataset)
    if len(dataset.held_out) < _FEATURES_FROM:
        kinds.discard("labels")
    return [tag for tag, its in METRICS.items() if its.while_training and its.needs in kinds]


def all_metrics(dataset: Dataset) -> list[str]:
    """Return the tags of all metrics that apply. Inception metrics need the weights on disk."""
    kinds, inception = data_kinds(dataset), available()
    return [
        tag
        for tag, its in METRICS.items()
        if its.needs in kinds and (inception or TABLE[tag].network != "inception")
    ]


def curve_metrics(dataset: Dataset) -> list[str]:
    """Return the metrics for all checkpoints: the usual ones, and the FID if there are labels."""
    chosen = usual_metrics(dataset)
    if "labels" in data_kinds(dataset):
        chosen.append("metrics/fid_classifier")
    return list(dict.fromkeys(chosen))

"""The traits of each metric. For other curves: whether a higher value is better."""

from __future__ import annotations

from functools import partial

from wgan_cli.schema.traits import MetricTraits

# `_distance` is for distances between generated and real samples. `_score` is for shares, counts
# and scores, where higher is better.
_distance = partial(MetricTraits, has_floor=True, higher_is_better=False)
_score = partial(MetricTraits, has_floor=True, higher_is_better=True)

# The metrics that an evaluation can compute, in the order of its table.
METRICS: dict[str, MetricTraits] = {
    "critic/wasserstein_heldout": MetricTraits(higher_is_better=False),
    "critic/lipschitz": MetricTraits(),
    "wasserstein/exact": _distance(),
    "wasserstein/sliced": _distance(),
    "wasserstein/normalized": MetricTraits(higher_is_better=False),
    "critic/gradient_norms": MetricTraits(),
    "critic/weights": MetricTraits(),
    "metrics/precision_pixel": _score("images"),
    "metrics/recall_pixel": _score("images"),
    "metrics/fid_classifier": _distance("labels"),
    "metrics/class_kl": _distance("labels"),
    "metrics/classes_found": _score("labels"),
    "metrics/kid_classifier": _distance("labels", while_training=False),
    "metrics/is_classifier": _score("labels", while_training=False),
    "metrics/precision_classifier": _score("labels", while_training=False),
    "metrics/recall_classifier": _score("labels", while_training=False),
    "metrics/fid_inception": _distance("images", while_training=False),
    "metrics/kid_inception": _distance("images", while_training=False),
    "metrics/is_inception": _score("images", while_training=False),
    "metrics/precision_inception": _score("images", while_training=False),
    "metrics/recall_inception": _score("images", while_training=False),
    "metrics/modes_found": _score("modes"),
    "metrics/share_within_3sigma": _score("modes"),
}

# Whether a higher value is better, for other curves than metrics, where this is known.
CURVES = {
    "critic/wasserstein": False,
    "critic/orthogonality": False,
    "throughput/images_per_second": True,
    "throughput/step_ms": False,
    "throughput/evaluation_seconds": False,
}

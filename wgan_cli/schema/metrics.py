"""Metrics and their traits, and which direction is better for the other curves."""

from __future__ import annotations

from wgan_cli.schema.traits import MetricTraits


def _distance(needs: str = "samples") -> MetricTraits:
    """Traits of a distance from real samples."""
    return MetricTraits(needs, has_floor=True, higher_is_better=False)


def _score(needs: str) -> MetricTraits:
    """Traits of a share, a count or a score of good samples."""
    return MetricTraits(needs, has_floor=True, higher_is_better=True)


# What evaluations can measure, in the order of their tables.
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
    "metrics/kid_classifier": _distance("labels"),
    "metrics/is_classifier": _score("labels"),
    "metrics/precision_classifier": _score("labels"),
    "metrics/recall_classifier": _score("labels"),
    "metrics/fid_inception": _distance("images"),
    "metrics/kid_inception": _distance("images"),
    "metrics/is_inception": _score("images"),
    "metrics/precision_inception": _score("images"),
    "metrics/recall_inception": _score("images"),
    "metrics/modes_found": _score("modes"),
    "metrics/share_within_3sigma": _score("modes"),
}

# Whether higher is better, for those of a run's other curves where it is known.
CURVES = {
    "critic/wasserstein": False,
    "critic/orthogonality": False,
    "throughput/images_per_second": True,
    "throughput/step_ms": False,
    "throughput/evaluation_seconds": False,
}

"""Which metrics are taken of a data set where none are chosen."""

from __future__ import annotations

from wgan_cli.data.dataset import Dataset
from wgan_cli.metrics.classifier import SIDE
from wgan_cli.metrics.inception import available
from wgan_cli.schema import METRICS

# Below so many held-out samples, features say more of their number than of the images.
_FEATURES_FROM = 2000
_USUAL_WITH_LABELS = ("metrics/fid_classifier", "metrics/class_kl", "metrics/classes_found")


def data_kinds(dataset: Dataset) -> set[str]:
    """What a data set has for the metrics that need it (`schema.METRICS`)."""
    images = len(dataset.sample_shape) == 3
    there = {
        "samples": True,
        "images": images,
        "labels": images and _can_be_classified(dataset),
        "modes": dataset.modes is not None,
    }
    return {kind for kind, found in there.items() if found}


def _can_be_classified(dataset: Dataset) -> bool:
    labels = dataset.labels
    large = min(dataset.sample_shape[1:]) >= SIDE
    return large and labels is not None and len(labels.train.unique()) > 1


def usual_metrics(dataset: Dataset) -> list[str]:
    """While training: all that applies and is quick.

    Of features the FID and what the classes tell, where there are enough held-out images for them.
    """
    kinds = data_kinds(dataset)
    chosen = [tag for tag, kind in _without_inception() if kind in kinds - {"labels"}]
    if "labels" in kinds and len(dataset.held_out) >= _FEATURES_FROM:
        chosen += _USUAL_WITH_LABELS
    return chosen


def all_metrics(dataset: Dataset) -> list[str]:
    """Afterwards: all that applies; Inception's where its weights are on disk."""
    kinds = data_kinds(dataset)
    there = METRICS.items() if available() else _without_inception()
    return [tag for tag, kind in there if kind in kinds]


def curve_metrics(dataset: Dataset) -> list[str]:
    """Over all checkpoints: what is usual, and the FID wherever there are labels."""
    chosen = usual_metrics(dataset)
    if "labels" in data_kinds(dataset):
        chosen.append("metrics/fid_classifier")
    return list(dict.fromkeys(chosen))


def _without_inception() -> list[tuple[str, str]]:
    return [(tag, kind) for tag, kind in METRICS.items() if not tag.endswith("_inception")]

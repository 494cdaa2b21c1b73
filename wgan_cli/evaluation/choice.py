"""Which metrics are taken of a data set where none are chosen."""

from __future__ import annotations

from wgan_cli.data.dataset import Dataset
from wgan_cli.metrics.inception import weights_path
from wgan_cli.schema import METRICS

# Below so many held-out samples, features say more of their number than of the images.
_FEATURES_FROM = 2000
_USUAL_WITH_LABELS = ("metrics/fid_classifier", "metrics/class_kl")


def data_kinds(dataset: Dataset) -> set[str]:
    """What a data set has for the metrics that need it (`schema.METRICS`)."""
    images = len(dataset.sample_shape) == 3
    there = {
        "samples": True,
        "images": images,
        "labels": images and dataset.labels is not None,
        "modes": dataset.modes is not None,
    }
    return {kind for kind, found in there.items() if found}


def usual_metrics(dataset: Dataset) -> list[str]:
    """While training: all that applies and is quick.

    Of features the FID and the class histogram, where there are enough held-out images for them.
    """
    kinds = data_kinds(dataset)
    chosen = [tag for tag, kind in _without_inception() if kind in kinds - {"labels"}]
    if "labels" in kinds and len(dataset.held_out) >= _FEATURES_FROM:
        chosen += _USUAL_WITH_LABELS
    return chosen


def all_metrics(dataset: Dataset) -> list[str]:
    """Afterwards: all that applies; Inception's where its weights are on disk."""
    kinds = data_kinds(dataset)
    there = METRICS.items() if weights_path().is_file() else _without_inception()
    return [tag for tag, kind in there if kind in kinds]


def _without_inception() -> list[tuple[str, str]]:
    return [(tag, kind) for tag, kind in METRICS.items() if not tag.endswith("_inception")]

"""The default metrics of a data set."""

from __future__ import annotations

from wgan_cli.data.dataset import Dataset
from wgan_cli.metrics.classifier import SIDE
from wgan_cli.metrics.inception import available
from wgan_cli.schema import METRICS

# With fewer held-out samples, statistics of features depend more on the count than on the images.
_FEATURES_FROM = 2000
_USUAL_WITH_LABELS = ("metrics/fid_classifier", "metrics/class_kl", "metrics/classes_found")


def data_kinds(dataset: Dataset) -> set[str]:
    """Which of samples, images, labels (that a classifier can learn) and modes a data set has."""
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
    """The metrics while training: all that apply and are fast.

    With enough held-out images they include `_USUAL_WITH_LABELS`, which need the classifier.
    """
    kinds = data_kinds(dataset)
    chosen = [tag for tag in _without_inception() if METRICS[tag].needs in kinds - {"labels"}]
    if "labels" in kinds and len(dataset.held_out) >= _FEATURES_FROM:
        chosen += _USUAL_WITH_LABELS
    return chosen


def all_metrics(dataset: Dataset) -> list[str]:
    """The metrics of a finished run: all that apply, Inception's if its weights are on disk."""
    kinds = data_kinds(dataset)
    tags = list(METRICS) if available() else _without_inception()
    return [tag for tag in tags if METRICS[tag].needs in kinds]


def curve_metrics(dataset: Dataset) -> list[str]:
    """The metrics over all checkpoints: the usual ones, and the FID where there are labels."""
    chosen = usual_metrics(dataset)
    if "labels" in data_kinds(dataset):
        chosen.append("metrics/fid_classifier")
    return list(dict.fromkeys(chosen))


def _without_inception() -> list[str]:
    return [tag for tag in METRICS if not tag.endswith("_inception")]

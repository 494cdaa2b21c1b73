"""The default metrics of a data set."""

from __future__ import annotations

from wgan_cli.data.dataset import Dataset
from wgan_cli.evaluation.registry import TABLE
from wgan_cli.metrics.classifier import SIDE
from wgan_cli.metrics.inception import available
from wgan_cli.schema import METRICS

# With fewer held-out samples, feature statistics depend more on their number than on the images.
_FEATURES_FROM = 2000


def data_kinds(dataset: Dataset) -> set[str]:
    """Return the kinds of data that a data set offers: samples, images, labels, modes.

    Labels count only if a classifier can learn them.
    """
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
    """Return the tags of the metrics during training: all that apply and are fast.

    Metrics that need labels are included only with enough held-out images, because they use a
    classifier's features.
    """
    kinds = data_kinds(dataset)
    if len(dataset.held_out) < _FEATURES_FROM:
        kinds.discard("labels")
    return [tag for tag, its in METRICS.items() if its.while_training and its.needs in kinds]


def all_metrics(dataset: Dataset) -> list[str]:
    """Return the tags of all metrics that apply; Inception's only if its weights are on disk."""
    kinds, inception = data_kinds(dataset), available()
    return [
        tag
        for tag, its in METRICS.items()
        if its.needs in kinds and (inception or TABLE[tag].network != "inception")
    ]


def curve_metrics(dataset: Dataset) -> list[str]:
    """Return the tags for all checkpoints: the usual metrics, and the FID if there are labels."""
    chosen = usual_metrics(dataset)
    if "labels" in data_kinds(dataset):
        chosen.append("metrics/fid_classifier")
    return list(dict.fromkeys(chosen))

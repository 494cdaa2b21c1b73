"""Build the data set of a run, its evaluation, and the settings that depend on the data."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from wgan_cli.build.instantiation import built
from wgan_cli.build.work import training_threads
from wgan_cli.config import settings_below
from wgan_cli.constraints import Constraint
from wgan_cli.data.dataset import Dataset
from wgan_cli.errors import DataError
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.evaluation.registry import data_kinds, usual_metrics
from wgan_cli.evaluation.samples import (
    MAX_FEATURE_SAMPLES,
    MAX_FEATURE_SAMPLES_IN_TRAINING,
    Reference,
    sample_counts,
)
from wgan_cli.machine import Machine, most_threads
from wgan_cli.rules import classless, refuse_metrics_without
from wgan_cli.schema import FilledConfig, RunConfig, TrainConfig


def build_dataset(config: TrainConfig) -> Dataset:
    """Read or generate the data set. Raise `DataError` if it cannot be read."""
    node = {key: value for key, value in config.dataset.items() if key != "recommended"}
    try:
        dataset: Dataset = built("dataset", node, optional={"name"})
    except OSError as error:
        name = node.get("name") or node["_target_"]
        raise DataError(f"{name} cannot be read: {error}.") from error
    return dataset


def classes_of(config: TrainConfig, dataset: Dataset) -> int | None:
    """Return the number of classes of a conditional run; None if the run is not conditional.

    Raises `ConfigError` if the data have no labels.
    """
    if not config.conditional:
        return None
    labels = dataset.labels
    if labels is None:
        raise classless(config)
    return 1 + int(max(labels.train.max(), labels.held_out.max()))


def data_facts(config: TrainConfig, dataset: Dataset) -> dict[str, int | None]:
    """Return the sizes that checkpoints store, so that a resume can detect changed data."""
    return {
        "training": dataset.training_size,
        "held_out": len(dataset.held_out),
        "classes": classes_of(config, dataset),
    }


def complete(
    config: FilledConfig, machine: Machine, dataset: Dataset, *, training: bool = True
) -> RunConfig:
    """Return the complete config of a run: add the machine, the metrics and the sample counts.

    The default number of threads depends on the work of training, and so on the samples' shape.
    The default metrics depend on the data set. In training, the default number of images for
    feature metrics is lower. Raises `ConfigError` if a metric does not apply to the data, or if
    the data set has fewer samples than the config requires.
    """
    of_images = training and len(dataset.sample_shape) == 3
    most = MAX_FEATURE_SAMPLES_IN_TRAINING if of_images else MAX_FEATURE_SAMPLES
    counts = sample_counts(dataset, config.eval_samples, config.feature_samples, most)
    threads = machine.threads
    if threads is None and training:
        shape, classes = dataset.sample_shape, classes_of(config, dataset)
        threads = training_threads(config, machine.device, shape, classes)
    complete = RunConfig(
        **settings_below(config, RunConfig),
        device=machine.device,
        threads=threads or most_threads(),
        precision=machine.precision,
        compile=machine.compile,
        metrics=usual_metrics(dataset) if config.metrics is None else config.metrics,
        eval_samples=counts.eval_samples,
        feature_samples=counts.feature_samples,
    )
    refuse_metrics_without(data_kinds(dataset), complete)
    return complete


def build_evaluation(
    config: RunConfig, dataset: Dataset, constraint: Constraint, device: torch.device
) -> Evaluation:
    """Return a run's evaluation. Raise `DataError` if a feature network is not available."""
    counts = config.eval_samples, config.feature_samples
    reference = Reference(dataset, device, cache_folder(), *counts, conditional=config.conditional)
    evaluation = Evaluation(config.metrics, reference, config.latent_dim, config.seed, constraint)
    evaluation.prepare()
    return evaluation


def cache_folder() -> Path | None:
    """Return the folder in the user's cache that holds trained classifiers.

    None if there is no such place: in a container, a user may be a number without a home.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "wgan-train"

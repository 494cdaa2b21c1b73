"""Build the data set of a run."""

from __future__ import annotations

from wgan_cli.build.instantiation import built
from wgan_cli.data.dataset import Dataset
from wgan_cli.errors import DataError
from wgan_cli.rules import classless
from wgan_cli.schema import TrainConfig


def build_dataset(config: TrainConfig) -> Dataset:
    """Return the data set, read or generated. Raise `DataError` if it cannot be read."""
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

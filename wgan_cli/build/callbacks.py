"""Build the loggers, callbacks and rollback of a run."""

from __future__ import annotations

from collections.abc import Mapping

from wgan_cli.build.data import classes_of, data_facts
from wgan_cli.build.instantiation import built
from wgan_cli.config import as_dict
from wgan_cli.data.dataset import Dataset
from wgan_cli.errors import ConfigError
from wgan_cli.loggers import Logger
from wgan_cli.run_folder import RunFolder
from wgan_cli.schema import RunConfig, TrainConfig
from wgan_cli.training.callbacks.checkpoints import Checkpoints
from wgan_cli.training.callbacks.loggers import Loggers
from wgan_cli.training.callbacks.profile import Profile
from wgan_cli.training.callbacks.progress import Progress
from wgan_cli.training.callbacks.protocol import Callback
from wgan_cli.training.callbacks.record import Record
from wgan_cli.training.callbacks.sample_pictures import SamplePictures, WeightHistograms
from wgan_cli.training.rollback import Rollback


def build_loggers(config: TrainConfig) -> dict[str, Logger]:
    """Return the loggers by name. Raise `ConfigError` if a class is not a `Logger`."""
    loggers = {name: built(f"logger.{name}", node) for name, node in config.logger.items()}
    for name, logger in loggers.items():
        if not isinstance(logger, Logger):
            raise ConfigError(
                f"logger.{name}._target_={config.logger[name]['_target_']} is no logger: derive it"
                " from wgan_cli.loggers.Logger."
            )
    return loggers


def build_callbacks(
    config: RunConfig,
    folder: RunFolder,
    dataset: Dataset,
    loggers: Mapping[str, Logger],
    *,
    first: bool,
) -> list[Callback]:
    """Return the callbacks of a run. `first` is true in a new run, false in a resumed one."""
    settings = as_dict(config)
    facts = {
        "config": settings,
        "sample_shape": list(dataset.sample_shape),
        "classes": classes_of(config, dataset),
        "data": data_facts(config, dataset),
    }
    record = Record(folder)
    labels = None if dataset.labels is None else dataset.labels.held_out
    # Loggers come after the callbacks that add measurements; checkpoints come after the loggers.
    return [
        record,
        SamplePictures(folder, dataset.held_out, labels, first=first),
        WeightHistograms(),
        Loggers(loggers, folder.path, settings, record.final, first=first),
        Progress(),
        Checkpoints(folder, facts, config.keep_every, from_start=config.on_divergence != "stop"),
        *([Profile(folder)] if config.profile else []),
    ]


def build_rollback(config: TrainConfig, folder: RunFolder) -> Rollback | None:
    """Return the rollback for divergence; None if `on_divergence` is "stop"."""
    if config.on_divergence == "stop":
        return None
    return Rollback(folder.checkpoints, config.rollback.times, config.rollback.lr_factor)

"""The callback that passes measurements to the run's loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from typing import Any

from omegaconf import OmegaConf

from wgan_cli.errors import LoggerError, WganError
from wgan_cli.files import is_full
from wgan_cli.loggers import Logger, Measurements, RunInfo
from wgan_cli.out_of_memory import is_out_of_memory
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point


@dataclass(eq=False)
class Loggers(Callback):
    """Pass the measurements of each point to all loggers.

    `loggers` maps names in the config to loggers, and `final` maps every tag to its newest value.
    `first` is True in a new run. This callback comes after the callbacks that add measurements. It
    comes before `Checkpoints`, so that everything up to the step of a checkpoint is logged.
    """

    loggers: Mapping[str, Logger]
    folder: Path
    settings: dict[str, Any]
    final: Mapping[str, float]
    first: bool = field(kw_only=True)
    _started: dict[str, Logger] = field(default_factory=dict, init=False)

    def on_start(self, trainer: ObservedTrainer, point: Point) -> None:
        """Start the loggers; in a new run, log the config and the first pictures."""
        run = RunInfo(self.folder, self.settings, trainer.recorded, self.first)
        for name, logger in self.loggers.items():
            with _named(name, logger):
                logger.start(run)
            self._started[name] = logger
        if self.first:
            text = OmegaConf.to_yaml(OmegaConf.create(self.settings))
            point.text["config"] = f"```yaml\n{text}\n```"
        self._log(point)

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Log the measurements."""
        self._log(point)

    def on_rollback(self, trainer: ObservedTrainer) -> None:
        """Delete the logged steps that will be repeated, and log the reason for the rollback."""
        for name, logger in self._started.items():
            with _named(name, logger):
                logger.rollback(trainer.recorded)
        last = trainer.rollbacks[-1]
        text = f"after step {last.at} back to {last.to}, rates x {last.lr_factor:g}: {last.reason}"
        self._log(Measurements(trainer.step, text={"returns": text}))

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Log the final values if the run finished, and close every logger that was started."""
        failures = []
        for name, logger in self._started.items():
            try:
                with _named(name, logger), closing(logger):
                    if error is None and self.final:
                        logger.finish(self.final)
            except Exception as raised:
                failures.append(raised)
        if failures:
            raise failures[0]

    def _log(self, point: Measurements) -> None:
        if not point.empty:
            for name, logger in self._started.items():
                with _named(name, logger):
                    logger.log(point)


@contextmanager
def _named(name: str, logger: Logger) -> Iterator[None]:
    """Convert an exception of a logger to a `LoggerError` that names the logger and the line."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and is_full(error)
        if full or isinstance(error, WganError) or is_out_of_memory(error):
            raise
        line = extract_tb(error.__traceback__)[-1]
        kind = type(logger)
        raise LoggerError(
            f"logger.{name} ({kind.__module__}.{kind.__qualname__}) failed:"
            f" {type(error).__name__}: {error} ({Path(line.filename).name}, line {line.lineno})."
        ) from error

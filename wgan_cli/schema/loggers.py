"""Loggers: their settings by target."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

_TENSORBOARD = "wgan_cli.loggers.tensorboard.TensorBoard"


@dataclass
class LoggerConfig:
    """A logger without settings of its own."""

    _target_: str = MISSING


LOGGERS: dict[str, type] = {_TENSORBOARD: LoggerConfig}
# The loggers of a run whose saved config is older than the group.
SAVED_WITHOUT = {"tensorboard": {"_target_": _TENSORBOARD}}

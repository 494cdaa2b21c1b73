"""Loggers: their settings by target."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.traits import Component

_TENSORBOARD = "wgan_cli.loggers.tensorboard.TensorBoard"


@dataclass
class LoggerConfig:
    """A logger without settings of its own."""

    _target_: str = MISSING


LOGGERS = {_TENSORBOARD: Component(LoggerConfig)}
# The loggers of a run whose saved config is older than the group.
SAVED_WITHOUT = {"tensorboard": {"_target_": _TENSORBOARD}}

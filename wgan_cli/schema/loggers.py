"""The settings of each logger, by target."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.traits import Component


@dataclass
class LoggerConfig:
    """Settings of a logger that has only a target."""

    _target_: str = MISSING


LOGGERS = {"wgan_cli.loggers.tensorboard.TensorBoard": Component(LoggerConfig)}

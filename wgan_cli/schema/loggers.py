"""Loggers: their settings by target."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.traits import Component


@dataclass
class LoggerConfig:
    """A logger without settings of its own."""

    _target_: str = MISSING


LOGGERS = {"wgan_cli.loggers.tensorboard.TensorBoard": Component(LoggerConfig)}

"""Loggers, which write a run's curves, pictures, histograms and text during training."""

from wgan_cli.loggers.base import Logger, Measurements, RunInfo

__all__ = ["Logger", "Measurements", "RunInfo"]

"""Loggers: where a run's curves, pictures, histograms and text go while it trains."""

from wgan_cli.loggers.base import Logger, Measurements, RunInfo

__all__ = ["Logger", "Measurements", "RunInfo"]

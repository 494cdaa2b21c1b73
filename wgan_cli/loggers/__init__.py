"""Loggers, which write a run's curves, pictures, histograms and text during training.

This module has the base class of loggers and the types of its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RunInfo:
    """The run that a logger writes about.

    `settings` is the content of `config.yaml`. `step` is the last logged step, 0 in a new run.
    `first` is true in a new run and false in a resumed one.
    """

    folder: Path
    settings: Mapping[str, Any]
    step: int
    first: bool


@dataclass
class Measurements:
    """The measurements after a step, by tag.

    `pictures` holds RGB arrays (H, W, 3), uint8. `histograms` holds the values to count, float32
    arrays of any shape. `text` holds Markdown.
    """

    step: int
    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """True if there are no measurements."""
        return not (self.scalars or self.pictures or self.histograms or self.text)


class Logger:
    """The base class of loggers. Its methods do nothing; override the methods that you need.

    With several processes, only rank 0 has loggers. If a method raises an exception, the run ends
    with a message that names the logger.
    """

    def start(self, run: RunInfo) -> None:
        """Open the log. In a resumed run, delete the entries of steps after `run.step`."""

    def log(self, point: Measurements) -> None:
        """Write the measurements of a step. Do not change `point` or keep a reference to it."""

    def rollback(self, step: int) -> None:
        """Delete the entries after `step`, because the run diverged and repeats these steps."""

    def finish(self, final: Mapping[str, float]) -> None:
        """Write the final values, by tag. Not called if the run ends early."""

    def close(self) -> None:
        """Close the log, after `finish` or an error. Called only if `start` succeeded."""

"""The base class of loggers, and the data that they receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RunInfo:
    """The run of a logger.

    `settings` is the content of `config.yaml`. `step` is the last step that was logged, 0 in a new
    run. `first` is true for the first start in this folder, false for a resume.
    """

    folder: Path
    settings: Mapping[str, Any]
    step: int
    first: bool


@dataclass
class Measurements:
    """The measurements after a step, by tag.

    `pictures` are RGB arrays (H, W, 3), uint8; `histograms` are the values to count, float32, of
    any shape; `text` is Markdown.
    """

    step: int
    scalars: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    histograms: dict[str, np.ndarray] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing was measured."""
        return not (self.scalars or self.pictures or self.histograms or self.text)


class Logger:
    """Write a run's measurements somewhere. Override what you need; each method does nothing here.

    With several processes only rank 0 has loggers. An exception ends the run with a message that
    names the logger.
    """

    def start(self, run: RunInfo) -> None:
        """Open the log. After a resume, drop what was logged after `run.step`: it is repeated."""

    def log(self, point: Measurements) -> None:
        """Write the measurements of a step. Do not change or keep them."""

    def rollback(self, step: int) -> None:
        """Drop what was logged after `step`: the run diverged and repeats the steps after it."""

    def finish(self, final: Mapping[str, float]) -> None:
        """Write the final numbers, by tag. A run that ends early does not get here."""

    def close(self) -> None:
        """Close the log, after `finish` or an error. Called only if `start` succeeded."""

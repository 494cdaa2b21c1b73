"""The callback that ends a run whose `train.log` cannot be written."""

from __future__ import annotations

from wgan_cli.files import LogFile
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point


class LogWatch(Callback):
    """End the run at the next log point after `train.log` could not be written."""

    def __init__(self, file: LogFile) -> None:
        self.file = file

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """At log points, raise the error of a failed write.

        This callback comes after `Checkpoints`, so that the step is saved first.
        """
        if point.log:
            self._raise()

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Raise the error of a write that failed since the last log point."""
        self._raise()

    def _raise(self) -> None:
        if self.file.failure is not None:
            raise self.file.failure

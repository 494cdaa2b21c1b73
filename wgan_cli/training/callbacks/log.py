"""`train.log`, and how a run ends if it cannot be written."""

from __future__ import annotations

import logging
from pathlib import Path

from wgan_cli.errors import DiskError
from wgan_cli.files import RecordFile
from wgan_cli.training.callbacks.protocol import Callback, ObservedTrainer, Point


class LogFile(logging.Handler):
    """Write messages with their times, in whole lines.

    A message may report another error, which a full disk must not hide. So `emit` keeps a failure
    in `failure`, and `LogWatch` raises it later.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.path = path
        self.failure: DiskError | None = None
        self._file: RecordFile | None = None

    def open(self) -> None:
        """Open the file. Call it before the first message."""
        self._file = RecordFile(self.path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or keep the error."""
        try:
            assert self._file is not None
            self._file.write(self.format(record).encode() + b"\n")
        except DiskError as error:
            self.failure = self.failure or error

    def close(self) -> None:
        """Close the file."""
        try:
            if self._file is not None:
                self._file.close()
        except DiskError as error:
            self.failure = self.failure or error
        super().close()


class LogWatch(Callback):
    """End the run at the next log point after `train.log` could not be written."""

    def __init__(self, file: LogFile) -> None:
        self.file = file

    def on_step(self, trainer: ObservedTrainer, point: Point) -> None:
        """Raise a kept error. This callback comes after saving, so that the step is not lost."""
        if point.log:
            self._raise()

    def on_end(self, trainer: ObservedTrainer, error: BaseException | None) -> None:
        """Raise an error since the last log point."""
        self._raise()

    def _raise(self) -> None:
        if self.file.failure is not None:
            raise self.file.failure

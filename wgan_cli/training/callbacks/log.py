"""`train.log`, and the end of a run that cannot write it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from wgan_cli.errors import DiskError
from wgan_cli.files import Growing
from wgan_cli.training.callbacks.protocol import Callback, Point

if TYPE_CHECKING:
    from wgan_cli.training.trainer import Trainer


class LogFile(logging.Handler):
    """Messages with their times, a line each, whole.

    A message may be about another error, which a full disk must not hide: a `failure` is kept, and
    `LogWatch` raises it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.failure: DiskError | None = None
        self._path = path
        self._file: Growing | None = None

    def open(self) -> None:
        """Open the file. Call it before the first message."""
        self._file = Growing(self._path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, or keep why not."""
        try:
            assert self._file is not None
            self._file.write(self.format(record).encode() + b"\n")
        except DiskError as error:
            self.failure = self.failure or error

    def close(self) -> None:
        """No more messages come."""
        try:
            if self._file is not None:
                self._file.close()
        except DiskError as error:
            self.failure = self.failure or error
        super().close()


class LogWatch(Callback):
    """Ends a run at the next log point after its log could not be written."""

    def __init__(self, file: LogFile) -> None:
        self.file = file

    def on_step(self, trainer: Trainer, point: Point) -> None:
        """Raise what was kept. Goes after saving, so that the step is not lost."""
        if point.log:
            self._raise()

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Raise what came after the last log point."""
        self._raise()

    def _raise(self) -> None:
        if self.file.failure is not None:
            raise self.file.failure

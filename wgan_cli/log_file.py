"""Write a run's messages to `train.log`."""

from __future__ import annotations

import logging
from pathlib import Path

from wgan_cli.errors import DiskError
from wgan_cli.files import RecordFile


class LogFile(logging.Handler):
    """A logging handler that writes each message with its time, and never half a line.

    The message may report an error, which a full disk must not hide. So `emit` stores a disk error
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
        """Write a message; store a disk error in `failure`."""
        try:
            assert self._file is not None
            self._file.write(self.format(record).encode() + b"\n")
        except DiskError as error:
            self.failure = self.failure or error

    def close(self) -> None:
        """Close the file; store a disk error in `failure`."""
        try:
            if self._file is not None:
                self._file.close()
        except DiskError as error:
            self.failure = self.failure or error
        super().close()

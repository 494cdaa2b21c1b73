"""`train.log`: the messages of a run, in whole lines."""

from __future__ import annotations

import logging
from pathlib import Path

from wgan_cli.errors import DiskError
from wgan_cli.files import RecordFile


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

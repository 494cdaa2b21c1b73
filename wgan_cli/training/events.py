"""TensorBoard's event file, written at once and by whole records."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from wgan_cli.files import Growing


class Events(SummaryWriter):
    """torch's writer without tensorboard's thread.

    The thread of tensorboard's own prints a traceback where the disk is full, leaves half a record
    and tells the run later or, at the end, not at all. Here an event is in the file when `add_…`
    returns, or that raises `DiskError`. `begin` hides what earlier files of the folder hold from
    that step on.
    """

    def __init__(self, folder: Path, begin: int) -> None:
        self._folder = folder
        super().__init__(str(folder))
        self.restart(begin)

    def restart(self, step: int) -> None:
        """Hide what was written of `step` and later: it comes again."""
        writer = self._get_file_writer()
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(file_version="brain.Event:2"), step)
        writer.add_event(Event(session_log=start), step)

    def _get_file_writer(self) -> FileWriter:
        writer: FileWriter | None = self.file_writer
        if writer is None:
            writer = _FileWriter(self._folder)
            self.file_writer, self.all_writers = writer, {self.log_dir: writer}  # type: ignore[assignment]
        return writer


class _FileWriter(FileWriter):
    """What torch's writer calls, on an `_EventFile`."""

    def __init__(self, folder: Path) -> None:
        self.event_writer = _EventFile(folder)


class _EventFile:
    """The records of one process, as tensorboard's EventFileWriter frames them."""

    def __init__(self, folder: Path) -> None:
        # TensorBoard reads files in the order of their names, and clocks are set back at times.
        begun = max([time.time(), *(1 + when for when in map(_begun, folder.iterdir()))])
        name = f"events.out.tfevents.{begun:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._folder = folder
        self._file = Growing(folder / name)
        self._records = RecordWriter(self._file)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        self._file.close()


def _begun(path: Path) -> float:
    """When an event file was begun, by its name; 0 for another file."""
    found = re.match(r"events\.out\.tfevents\.(\d+(?:\.\d+)?)", path.name)
    return float(found[1]) if found else 0.0

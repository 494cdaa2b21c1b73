"""TensorBoard's event file, written at once and by whole records."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import FileWriter, SummaryWriter

from wgan_cli.files import Growing
from wgan_cli.pictures import as_png
from wgan_cli.training.crc import masked_crc32c


class Events(SummaryWriter):
    """torch's writer without tensorboard's thread.

    The thread of tensorboard's own prints a traceback where the disk is full, leaves half a record
    and tells the run later or, at the end, not at all. Here an event is in the file when `add_…`
    returns, or that raises `DiskError`. Nothing is written before `open`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file_writer = self.all_writers = None

    def open(self, begin: int) -> None:
        """Start a file. It hides what earlier files of the folder hold from step `begin` on."""
        super().__init__(str(self._folder))
        self.restart(begin)

    def add_picture(self, tag: str, picture: np.ndarray, step: int) -> None:
        """An RGB picture (H, W, 3), uint8, as `add_image` writes it, which takes it for floats."""
        height, width, channels = picture.shape
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=channels,
            encoded_image_string=as_png(picture),
        )
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._get_file_writer().add_summary(summary, step)

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
    """The records of one process, as tensorboard's RecordWriter frames them."""

    def __init__(self, folder: Path) -> None:
        # TensorBoard reads files in the order of their names, and clocks are set back at times.
        begun = max([time.time(), *(1 + when for when in map(_begun, folder.iterdir()))])
        name = f"events.out.tfevents.{begun:.6f}.{socket.gethostname()}.{os.getpid()}"
        self._folder = folder
        self._file = Growing(folder / name)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        return str(self._folder)

    def add_event(self, event: Any) -> None:
        data = event.SerializeToString()
        size = struct.pack("<Q", len(data))
        sealed = (part + struct.pack("<I", masked_crc32c(part)) for part in (size, data))
        self._file.write(b"".join(sealed))

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        self._file.close()


def _begun(path: Path) -> float:
    """When an event file was begun, by its name; 0 for another file."""
    found = re.match(r"events\.out\.tfevents\.(\d+(?:\.\d+)?)", path.name)
    return float(found[1]) if found else 0.0

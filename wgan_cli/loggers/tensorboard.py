"""The logger for TensorBoard: curves, pictures, histograms, text and an HParams entry."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from itertools import accumulate, repeat, takewhile
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram, hparams, scalar, text

from wgan_cli.files import RecordFile
from wgan_cli.loggers import Logger, Measurements, RunInfo
from wgan_cli.pictures import as_png
from wgan_cli.run_folder import make_folder
from wgan_cli.validation import flatten

# The histogram bins of torch's SummaryWriter.
_POSITIVE = list(takewhile(lambda edge: edge < 1e20, accumulate(repeat(1.1), mul, initial=1e-12)))
_BINS = [*(-edge for edge in reversed(_POSITIVE)), 0.0, *_POSITIVE]
# Prefixes of settings that do not affect results.
_NO_HYPERPARAMETERS = ("dataset.recommended.", "logger", "metrics", "profile")


class TensorBoard(Logger):
    """Write an event file into `tensorboard/` of the run's folder, without a writer thread.

    Torch's `SummaryWriter` has a writer thread. If the disk is full, this thread prints a
    traceback, leaves an incomplete record and reports the error late or never. In this class, each
    record is in the file when a method returns. Otherwise the method raises `DiskError`, and
    earlier records stay intact.
    """

    def start(self, run: RunInfo) -> None:
        """Open an event file that hides earlier records of steps after `run.step`."""
        self._settings = run.settings
        folder = run.folder / "tensorboard"
        make_folder(folder)
        # TensorBoard reads files in the order of their names, even if the clock was set back.
        started = max([time.time(), *(1 + start for start in map(_start_time, folder.iterdir()))])
        name = f"events.out.tfevents.{started:.6f}.{socket.gethostname()}.{os.getpid()}"
        # RecordWriter makes one write call for each record.
        self._records = RecordWriter(RecordFile(folder / name))
        self._write(Event(file_version="brain.Event:2"))
        # TensorBoard hides records after a resume only if the first file has a start event too.
        self.rollback(-1 if run.first else run.step)

    def log(self, point: Measurements) -> None:
        """Write a record for each tag."""
        for tag, value in point.scalars.items():
            self._write(Event(summary=scalar(tag, value)), point.step)
        for tag, picture in point.pictures.items():
            self._write(Event(summary=_image(tag, picture)), point.step)
        for tag, values in point.histograms.items():
            self._write(Event(summary=histogram(tag, values, _BINS)), point.step)
        for tag, markdown in point.text.items():
            self._write(Event(summary=text(tag, markdown)), point.step)

    def rollback(self, step: int) -> None:
        """Make TensorBoard ignore all earlier records of steps after `step`."""
        self._write(Event(file_version="brain.Event:2"), step + 1)
        self._write(Event(session_log=SessionLog(status=SessionLog.START)), step + 1)

    def finish(self, final: Mapping[str, float]) -> None:
        """Write the HParams entry. `SummaryWriter.add_hparams` would create a second run for it."""
        for summary in hparams(hyperparameters(self._settings), dict(final)):
            self._write(Event(summary=summary))

    def close(self) -> None:
        """Close the event file."""
        self._records.close()

    def _write(self, event: Any, step: int | None = None) -> None:
        event.wall_time = time.time()
        if step is not None:
            event.step = step
        self._records.write(event.SerializeToString())


def hyperparameters(settings: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the settings that affect results, by dotted key."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in flatten(dict(settings)).items()
        if value is not None
        and not key.endswith(("_target_", "_every", "_samples"))
        and not key.startswith(_NO_HYPERPARAMETERS)
    }


def _image(tag: str, picture: np.ndarray) -> Summary:
    """Return a summary of an RGB picture. Torch's `image` would first convert the picture."""
    height, width, channels = picture.shape
    image = Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=as_png(picture)
    )
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _start_time(path: Path) -> float:
    """Return the time in an event file's name; 0 for any other file."""
    found = re.match(r"events\.out\.tfevents\.(\d+(?:\.\d+)?)", path.name)
    return float(found[1]) if found else 0.0

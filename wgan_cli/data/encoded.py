"""Reads encoded images from any source, and replaces those that cannot be read."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from wgan_cli.data.decoding import FORMATS, to_square
from wgan_cli.errors import DataError, WganError

log = logging.getLogger(__name__)

# The log names this many unreadable images, by path and reason; it only counts later ones.
NAMED = 5
# Errors of the machine, not of the file.
_MACHINE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ImageSource(Protocol):
    """Encoded images in a fixed order. Sources are pickled for the reader processes."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the image's name for messages."""

    def open(self, index: int) -> Image.Image:
        """Open the image; PIL decodes it on use. Raises whatever PIL raises."""


class FileSource:
    """Image files under a folder, in the order of `names`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        # An array: forked reader processes would copy the memory of a list of strings.
        self._names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the file's path."""
        # A file name in another encoding could not be printed.
        return os.fsencode(self._path(index)).decode(errors="replace")

    def open(self, index: int) -> Image.Image:
        """Open the image file."""
        return Image.open(self._path(index), formats=FORMATS)

    def _path(self, index: int) -> Path:
        return self.folder / os.fsdecode(self._names[index])


class ReadResult(NamedTuple):
    """Images uint8 (n, channels, size, size), and the name and reason of each unreadable one.

    `complete` is false if reading stopped early: at an image without a substitute, or at too many
    unreadable ones.
    """

    images: Tensor
    faults: list[tuple[str, str]]
    complete: bool


@dataclass(eq=False)
class Faults:
    """The unreadable images of a data set, each counted once.

    At most `fraction` of the `total` images may be unreadable, but at least one is allowed. With
    `fraction` 0, none is.
    """

    name: str
    total: int
    fraction: float
    seen: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def limit(self) -> int:
        """The largest number of unreadable images that is allowed."""
        return max(1, int(self.fraction * self.total)) if self.fraction else 0

    def record(self, faults: Iterable[tuple[str, str]]) -> None:
        """Log and count unreadable images. Raises `DataError` if there are more than allowed."""
        for image, reason in faults:
            if image in self.seen:
                continue
            self.seen[image] = reason
            count = len(self.seen)
            if count > self.limit:
                raise DataError(
                    f"{self.name}: more than {self.limit} of {self.total} images cannot be read,"
                    f" the limit by dataset.corrupt_limit={self.fraction:g}: {self._examples()}."
                    " Repair or remove them, or raise dataset.corrupt_limit."
                )
            if count <= NAMED:
                log.warning(
                    "%s: %s cannot be read (%s); another image takes its place.",
                    self.name,
                    image,
                    reason,
                )
            elif count & (count - 1) == 0:
                log.warning("%s: %d images that cannot be read so far.", self.name, count)

    def _examples(self) -> str:
        named = [f"{image} ({reason})" for image, reason in list(self.seen.items())[:NAMED]]
        return ", ".join([*named, "..."] if len(self.seen) > NAMED else named)


@dataclass(frozen=True, eq=False)
class ImagePart:
    """A subset of a source's images as squares, each read on access.

    Both `indices` (n,) into the source and the classes `labels` (n,) are ascending. An unreadable
    image is replaced by the next readable one of its class, wrapping around. The substitute depends
    only on the files, not on the order of reading.
    """

    source: ImageSource
    indices: np.ndarray
    size: int
    channels: int
    faults: Faults
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image."""
        return (self.channels, self.size, self.size)

    def __getitem__(self, positions: Sequence[int]) -> ReadResult:
        """Read the images at these positions of the part; stop early at too many unreadable ones.

        Reader processes run this on a copy: they return unreadable images and do not record them.
        """
        images = torch.empty((len(positions), *self.shape), dtype=torch.uint8)
        faults: dict[str, str] = {}
        with warnings.catch_warnings():
            # PIL warns about odd metadata and large photographs; that would flood the log.
            warnings.simplefilter("ignore")
            for row, position in enumerate(positions):
                pixels = self._read(position, faults)
                if pixels is None:
                    return ReadResult(images[:row], list(faults.items()), complete=False)
                images[row] = torch.from_numpy(pixels)
        return ReadResult(images, list(faults.items()), complete=True)

    def _read(self, position: int, faults: dict[str, str]) -> np.ndarray | None:
        """Read an image or its substitute, and add unreadable ones to `faults`; None on failure."""
        for candidate in self._candidates(position):
            index = int(self.indices[candidate])
            try:
                with self.source.open(index) as image:
                    return to_square(image, self.size, self.channels).copy()
            # For a damaged file, PIL raises anything from SyntaxError to struct.error.
            except Exception as error:
                of_machine = getattr(error, "errno", None) in _MACHINE_ERRORS
                if of_machine or isinstance(error, MemoryError | WganError):
                    raise
                faults[self.source.name(index)] = _reason(error)
                if len(faults) > self.faults.limit:
                    break
        return None

    def _candidates(self, position: int) -> Iterable[int]:
        yield position
        first, end = 0, len(self.indices)
        if self.labels is not None:
            label = self.labels[position]
            first, end = (int(np.searchsorted(self.labels, label, s)) for s in ("left", "right"))
        yield from range(position + 1, end)
        yield from range(first, position)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

"""Encoded images wherever they are kept, and what becomes of those that cannot be read."""

from __future__ import annotations

import errno
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from wgan_cli.data.decoding import FORMATS, as_square
from wgan_cli.errors import DataError, WganError

log = logging.getLogger(__name__)

# So many are named in the log, by path and reason.
NAMED = 5
# Failures of the machine, which say nothing of the file.
_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ImageSource(Protocol):
    """Encoded images in a fixed order. Picklable, for the processes that read it."""

    def __len__(self) -> int: ...

    def name(self, place: int) -> str:
        """What a message calls the image."""

    def open(self, place: int) -> Image.Image:
        """The image, decoded when it is used. Raises whatever PIL raises."""


class Files:
    """Images in files under a folder, in the order of their names."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        # An array, as a list of so many strings would be copied in every process that reads it.
        self._names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def name(self, place: int) -> str:
        """Its path."""
        # A name in another encoding could not be printed.
        return os.fsencode(self._path(place)).decode(errors="replace")

    def open(self, place: int) -> Image.Image:
        """The image of a file."""
        return Image.open(self._path(place), formats=FORMATS)

    def _path(self, place: int) -> Path:
        return self.folder / os.fsdecode(self._names[place])


class Read(NamedTuple):
    """Images uint8 (n, channels, size, size); the name and the reason of each unreadable one.

    `whole` is false where reading stopped, at one without a substitute or at too many faults.
    """

    images: Tensor
    faults: list[tuple[str, str]]
    whole: bool


@dataclass(frozen=True, eq=False)
class ImagePart:
    """Some of a source's images as squares, in the source's order, read when they are asked for.

    `places` (n,) are ascending, and so are the classes `labels` (n,). One that cannot be read is
    replaced by the next of its class that can, wrapping round: the same one in every run, however
    the images are read and whatever was read before.
    """

    source: ImageSource
    places: np.ndarray
    size: int
    channels: int
    most_faults: int
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of one image."""
        return (self.channels, self.size, self.size)

    def __getitem__(self, positions: Sequence[int]) -> Read:
        """The images at these positions of the part; stops early at more than `most_faults`."""
        images = torch.empty((len(positions), *self.shape), dtype=torch.uint8)
        faults: dict[str, str] = {}
        with warnings.catch_warnings():
            # Odd metadata and large photographs are no news to a user who has thousands of them.
            warnings.simplefilter("ignore")
            for row, position in enumerate(positions):
                pixels = self._readable(position, faults)
                if pixels is None:
                    return Read(images[:row], list(faults.items()), whole=False)
                images[row] = torch.from_numpy(pixels)
        return Read(images, list(faults.items()), whole=True)

    def _readable(self, position: int, faults: dict[str, str]) -> np.ndarray | None:
        for candidate in self._candidates(position):
            place = int(self.places[candidate])
            try:
                with self.source.open(place) as image:
                    return as_square(image, self.size, self.channels).copy()
            # What PIL raises for a damaged file is anything from SyntaxError to struct.error.
            except Exception as error:
                machine = getattr(error, "errno", None) in _MACHINE
                if machine or isinstance(error, MemoryError | WganError):
                    raise
                faults[self.source.name(place)] = _reason(error)
                if len(faults) > self.most_faults:
                    break
        return None

    def _candidates(self, position: int) -> Iterable[int]:
        yield position
        first, end = 0, len(self.places)
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


class Faults:
    """The images of a data set that could not be read, each once.

    Allowed are `share` of `total`, and one in any case unless the share is 0.
    """

    def __init__(self, name: str, total: int, share: float) -> None:
        self.name = name
        self.total = total
        self.share = share
        self.most = max(1, int(share * total)) if share else 0
        self.seen: dict[str, str] = {}

    def note(self, faults: Iterable[tuple[str, str]]) -> None:
        """Name them in the log, or only count them. Raises `DataError` beyond what is allowed."""
        for image, reason in faults:
            if image in self.seen:
                continue
            self.seen[image] = reason
            count = len(self.seen)
            if count > self.most:
                raise DataError(
                    f"{self.name}: more than {self.most} of {self.total} images cannot be read,"
                    f" which dataset.corrupt_limit={self.share:g} allows: {self._some()}. Mend or"
                    " remove them, or raise dataset.corrupt_limit."
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

    def _some(self) -> str:
        few = [f"{image} ({reason})" for image, reason in list(self.seen.items())[:NAMED]]
        return ", ".join([*few, "..."] if len(self.seen) > NAMED else few)

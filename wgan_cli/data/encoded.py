"""Read encoded images as 8-bit squares; replace unreadable images by other images."""

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
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from wgan_cli.errors import DataError, WganError
from wgan_cli.untrusted_files import refuse_special

log = logging.getLogger(__name__)

GREY = 1
COLOUR = 3
# The only formats that PIL may open. For others, such as EPS, PIL would run external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# In these formats, integers above 8 bits have 16 bits, even if PIL's mode is I (32 bits).
_SIXTEEN_BIT = ("PNG", "PPM")
# Log the path and reason of this many unreadable images; after that, log only their number.
NAMED = 5
# Errors that come from the machine, not from the file.
_MACHINE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ImageSource(Protocol):
    """Encoded images in a fixed order. Sources are pickled for the reader processes."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the name of the image, for messages."""

    def open(self, index: int) -> Image.Image:
        """Return the opened image, which PIL decodes on use. Errors of PIL are passed on."""


class FileSource:
    """Image files under a folder, in the order of `names`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        # Use an array: forked reader processes would copy the memory of a list of strings.
        self._names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the file's path."""
        # Replace undecodable bytes: a file name with them could not be printed.
        return os.fsencode(self._path(index)).decode(errors="replace")

    def open(self, index: int) -> Image.Image:
        """Return the opened image file. Raises `ValueError` for a pipe or a device."""
        refuse_special(self._path(index))
        return Image.open(self._path(index), formats=FORMATS)

    def _path(self, index: int) -> Path:
        return self.folder / os.fsdecode(self._names[index])


class ReadResult(NamedTuple):
    """The images read, uint8 (n, channels, size, size), and the unreadable images.

    `faults` holds the name and the reason for each unreadable image. `complete` is False if reading
    stopped early, because an image had no substitute or too many images were unreadable.
    """

    images: Tensor
    faults: list[tuple[str, str]]
    complete: bool


@dataclass(eq=False)
class Faults:
    """The unreadable images of a data set, each counted once.

    At most max(1, fraction * total) images may be unreadable, or none if `fraction` is 0.
    """

    name: str
    total: int
    fraction: float
    seen: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def limit(self) -> int:
        """The allowed number of unreadable images."""
        return max(1, int(self.fraction * self.total)) if self.fraction else 0

    def record(self, faults: Iterable[tuple[str, str]]) -> None:
        """Log and count unreadable images (name, reason). Raises `DataError` above `limit`."""
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
    """A subset of a source's images, cropped to squares and read on access.

    `indices` (n,) are the images' indices in the source, and `labels` (n,) their classes; both are
    ascending. An unreadable image is replaced by the next readable image of its class; after the
    last image comes the first. The substitute depends only on the files, not on the order of
    reading.
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
        """Return the images at these positions; stop early if too many images are unreadable.

        Reader processes run this on a copy, so it returns faults instead of recording them.
        """
        images = torch.empty((len(positions), *self.shape), dtype=torch.uint8)
        faults: dict[str, str] = {}
        with warnings.catch_warnings():
            # Ignore PIL's warnings about odd metadata and large photographs, which would flood the
            # log.
            warnings.simplefilter("ignore")
            for row, position in enumerate(positions):
                pixels = self._read(position, faults)
                if pixels is None:
                    return ReadResult(images[:row], list(faults.items()), complete=False)
                images[row] = torch.from_numpy(pixels)
        return ReadResult(images, list(faults.items()), complete=True)

    def _read(self, position: int, faults: dict[str, str]) -> np.ndarray | None:
        """Return an image, else its substitute, else None; add unreadable images to `faults`."""
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


def to_square(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return the middle square of an image, uint8 (channels, size, size).

    The steps are: rotate by the EXIF orientation, scale to 8 bits, crop to a centred square, blend
    transparent pixels with white, convert to RGB (`COLOUR`) or to luma by ITU-R 601-2 (`GREY`), and
    resize with antialiased Lanczos. Images of the right size are not resized. For an animation, the
    first frame is used. 16-bit pixels are multiplied by 255/65535. The 32-bit pixels of a TIFF are
    treated as 16-bit if one of them is above 255, otherwise as 8-bit. Raises ValueError for float
    pixels and for integer values below 0 or above 65535. Errors of PIL for damaged images are
    passed on.
    """
    ImageOps.exif_transpose(image, in_place=True)
    image = _eight_bit(image)
    # Crop before resizing, so that a panorama is not resized as a whole.
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = _on_white(image.crop((left, top, left + side, top + side)))
    if channels == GREY and image.mode != "L":
        image = image.convert("RGB").convert("L")
    elif channels == COLOUR:
        image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == GREY else pixels.transpose(2, 0, 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise ValueError(f"its pixels are integers from {least} to {most}, beyond 16 bits")
    if image.mode != "I" or image.format in _SIXTEEN_BIT or most > 255:
        values = np.rint(values / 257)
    return Image.fromarray(values.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if image.getbands()[-1] not in ("A", "a") and "transparency" not in image.info:
        return image
    # PIL converts La (grey with premultiplied alpha) to LA but not directly to RGBA.
    pixels = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

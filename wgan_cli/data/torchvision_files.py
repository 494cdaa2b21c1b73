"""The files of torchvision's data sets: read, or downloaded first, or answered in plain words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgan_cli.errors import DataError

_LONGEST = 250


def read_part(
    name: str, kind: str, root: str, download: bool, **which: Any
) -> tuple[Tensor, Tensor]:
    """Images uint8 (n, c, h, w) and labels int64 (n,) of one part of a torchvision data set.

    `kind` is a class of torchvision.datasets and `which` chooses the part, in that class's own
    words; `name` is for messages. The images may be a view. Raises `DataError`.
    """
    with answered(name, root, download) as (datasets, folder):
        part: Any = getattr(datasets, kind)(str(folder), download=download, **which)
        labels = part.targets if hasattr(part, "targets") else part.labels
        return _as_images(part.data), torch.as_tensor(labels, dtype=torch.int64)


@contextmanager
def answered(name: str, root: str, download: bool) -> Iterator[tuple[Any, Path]]:
    """Gives torchvision.datasets and the folder that `root` means.

    What fails inside becomes a `DataError` with advice.
    """
    folder = Path(root).expanduser()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"dataset.root={root} is a file; a folder is needed.")
    advice = "Put the files there, name their folder by dataset.root, or add dataset.download=true."
    if not download and not folder.exists():
        raise DataError(f"{name} cannot be read: no folder {folder.absolute()}. {advice}")
    # Takes seconds, so not before there may be something to read.
    import torchvision.datasets

    was_there = folder.exists()
    try:
        yield torchvision.datasets, folder
    # What a damaged file raises is anything from struct.error to UnpicklingError.
    except Exception as error:
        if not was_there:
            _remove_empty(folder)
        # What was tried and why it failed stand in the lines after the first.
        reason = textwrap.shorten(str(error), _LONGEST, placeholder=" ...") or type(error).__name__
        if download:
            advice = (
                "It could not be downloaded; check the network, or put the files there by hand and"
                " add dataset.download=false."
            )
        raise DataError(
            f"{name} cannot be read from {folder.absolute()} ({reason}). {advice}"
        ) from error


def _remove_empty(folder: Path) -> None:
    """Remove the folders that a download made and put nothing into."""
    made = [path for path in folder.rglob("*") if path.is_dir()]
    for path in (*sorted(made, reverse=True), folder):
        with suppress(OSError):
            path.rmdir()


def _as_images(data: Any) -> Tensor:
    """Torchvision's (n, h, w), (n, h, w, 3) and (n, c, h, w) as (n, c, h, w)."""
    images = torch.as_tensor(data)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"not images: {images.dtype} of shape {tuple(images.shape)}")
    if images.ndim == 3:
        return images[:, None]
    return images.permute(0, 3, 1, 2) if images.shape[3] == 3 else images

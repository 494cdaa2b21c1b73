"""Reads or downloads torchvision's data sets; errors say what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgan_cli.errors import DataError


def read_part(
    name: str, kind: str, root: str, download: bool, **which: Any
) -> tuple[Tensor, Tensor]:
    """Return uint8 images (n, c, h, w) and int64 labels (n,) of a part of a torchvision data set.

    `kind` is the name of a class in torchvision.datasets, and `which` holds its arguments that
    select the part. `name` is for messages. The images may be a view. Raises `DataError` if
    reading fails.
    """
    with torchvision_files(name, root, download) as (datasets, folder):
        part: Any = getattr(datasets, kind)(str(folder), download=download, **which)
        labels = part.targets if hasattr(part, "targets") else part.labels
        images = torch.as_tensor(part.data)
        if images.dtype != torch.uint8 or images.ndim not in (3, 4):
            raise ValueError(f"not images: {images.dtype} of shape {tuple(images.shape)}")
        # The shape is (n, h, w), (n, h, w, 3) or (n, c, h, w), depending on the data set.
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[3] == 3:
            images = images.permute(0, 3, 1, 2)
        return images, torch.as_tensor(labels, dtype=torch.int64)


@contextmanager
def torchvision_files(name: str, root: str, download: bool) -> Iterator[tuple[Any, Path]]:
    """Yield the module torchvision.datasets and the path of the folder `root`.

    An exception in the block becomes a `DataError` that says what to do.
    """
    folder = Path(root).expanduser()
    existed = folder.exists()
    if existed and not folder.is_dir():
        raise DataError(f"dataset.root={root} is a file; it must be a folder.")
    advice = "Put the files there, set dataset.root to their folder, or add dataset.download=true."
    if not download and not existed:
        raise DataError(f"{name} cannot be read: no folder {folder.absolute()}. {advice}")
    # The import takes seconds, so check for the folder first.
    import torchvision.datasets

    try:
        yield torchvision.datasets, folder
    # A damaged file raises anything from struct.error to UnpicklingError.
    except Exception as error:
        if not existed:
            # Remove the empty folders that a failed download left.
            folders = [path for path in folder.rglob("*") if path.is_dir()]
            for path in (*sorted(folders, reverse=True), folder):
                with suppress(OSError):
                    path.rmdir()
        # Later lines of the message explain the failure, so keep all lines.
        reason = textwrap.shorten(str(error), 250, placeholder=" ...") or type(error).__name__
        if download:
            advice = (
                "It could not be downloaded: check the network, or put the files there yourself and"
                " add dataset.download=false."
            )
        raise DataError(
            f"{name} cannot be read from {folder.absolute()} ({reason}). {advice}"
        ) from error

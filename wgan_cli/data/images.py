"""scikit-learn's digits, and the labelled image data sets that torchvision reads or downloads."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wgan_cli.data.dataset import Labels, TensorDataset, split
from wgan_cli.data.feeds import to_bytes, to_floats
from wgan_cli.errors import DataError
from wgan_cli.untrusted_files import refuse_special

# The suffixes of files that torchvision downloads into the root itself.
_DOWNLOADED = (".mat", ".gz", ".zip")

TORCHVISION_CLASSES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


def digits(name: str = "digits") -> TensorDataset:
    """Return scikit-learn's 1,797 grey 8x8 images of handwritten digits; 359 are held out."""
    table = digits_table()
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return split(torch.from_numpy(images), name, labels=labels)


def digits_table() -> np.ndarray:
    """Return an array (1797, 65). Each row has the 64 grey values (0 to 16) and the digit.

    The file is read without importing `sklearn.datasets`, which takes a second.
    """
    spec = find_spec("sklearn")
    for folder in (spec and spec.submodule_search_locations) or []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    # Another version of scikit-learn may keep the file elsewhere.
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return np.column_stack([loaded.data, loaded.target])


def torchvision_images(
    name: str, root: str = "data", download: bool = True, flip: bool = False
) -> TensorDataset:
    """Return one of `TORCHVISION_CLASSES`. Its test part is held out. Raises `DataError`."""
    if name not in TORCHVISION_CLASSES:
        known = ", ".join(TORCHVISION_CLASSES)
        raise DataError(f"dataset.name={name} is none of these data sets: {known}.")
    (train, train_labels), (test, test_labels) = (
        read_part(name, TORCHVISION_CLASSES[name], root, download, train=train)
        for train in (True, False)
    )
    labels = Labels(train_labels, test_labels)
    return TensorDataset(name, train.contiguous(), test.contiguous(), labels, flip=flip)


# The `_target_` of data sets whose images may be mirrored. Letters and digits may not.
flippable_images = torchvision_images


def emnist(
    name: str = "emnist", root: str = "data", download: bool = True, split: str = "balanced"
) -> TensorDataset:
    """Return one of EMNIST's six splits of handwritten letters and digits (arXiv 1702.05373).

    Labels start at 0 in every split. The split's test part is held out. Raises `DataError`.
    """
    (train, train_labels), (test, test_labels) = (
        read_part(name, "EMNIST", root, download, split=split, train=train)
        for train in (True, False)
    )
    # In the files, the labels of letters start at 1, and all images are transposed.
    lowest = 1 if split == "letters" else 0
    return TensorDataset(
        name,
        train.mT.contiguous(),
        test.mT.contiguous(),
        Labels(train_labels - lowest, test_labels - lowest),
    )


def svhn(
    name: str = "svhn", root: str = "data", download: bool = True, extra: bool = False
) -> TensorDataset:
    """Return photographs of house numbers, cropped to one digit, with the test part held out.

    With `extra`, SVHN's easier part `extra` is added to the training part. Raises `DataError`.
    """
    parts = [
        read_part(name, "SVHN", root, download, split=part)
        for part in ("train", *(["extra"] if extra else []), "test")
    ]
    *training, (test, test_labels) = parts
    images, labels = (torch.cat(kind) for kind in zip(*training, strict=True))
    return TensorDataset(name, images.contiguous(), test.contiguous(), Labels(labels, test_labels))


def stl10(
    name: str = "stl10",
    root: str = "data",
    download: bool = True,
    size: int = 64,
    unlabeled: bool = True,
    flip: bool = False,
) -> TensorDataset:
    """Return photographs of ten classes, resized from 96x96 to `size` x `size`.

    With `unlabeled`, the 100,000 images without a class are added to the training part, and the
    data set has no labels. The test part is held out. Raises `DataError`.
    """

    def read(part: str) -> tuple[Tensor, Tensor]:
        images, labels = read_part(name, "STL10", root, download, split=part)
        return resize(images, size), labels

    (train, train_labels), (test, test_labels) = read("train"), read("test")
    if unlabeled:
        train = torch.cat([train, read("unlabeled")[0]])
    labels = None if unlabeled else Labels(train_labels, test_labels)
    return TensorDataset(name, train, test, labels, flip=flip)


def read_part(
    name: str, kind: str, root: str, download: bool, **which: Any
) -> tuple[Tensor, Tensor]:
    """Return uint8 images (n, c, h, w) and int64 labels (n,) of a part of a torchvision data set.

    `kind` is the name of a class in torchvision.datasets, and `which` holds the arguments of this
    class that select the part. `name` is for messages. The images may be a view. Raises
    `DataError`.
    """
    with torchvision_files(name, root, download) as (datasets, folder):
        made = getattr(datasets, kind)
        # Where torchvision's classes keep their files: below the root, or in the root itself.
        refuse_special_files(folder / kind / "raw")
        refuse_special_files(folder / getattr(made, "base_folder", kind))
        refuse_special_files(folder, _DOWNLOADED)
        part: Any = made(str(folder), download=download, **which)
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


def refuse_special_files(folder: Path, suffixes: tuple[str, ...] = ("",)) -> None:
    """Raise `ValueError` if an entry of the folder is a pipe or a device: reading it may not end.

    Only names that end in one of `suffixes` are checked.
    """
    with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
        for entry in entries:
            if entry.name.endswith(suffixes) and not (entry.is_file() or entry.is_dir()):
                # A link that leads nowhere is a missing file.
                with suppress(FileNotFoundError):
                    refuse_special(Path(entry.path))


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


def resize(images: Tensor, size: int) -> Tensor:
    """Return uint8 images (n, c, h, w) resized to `size` x `size`, bilinear and antialiased."""
    if images.shape[2:] == (size, size):
        return images.contiguous()
    result = images.new_empty((*images.shape[:2], size, size))
    # Resize in chunks: as floats, all images would need over four times the memory.
    for chunk, target in zip(images.split(1024), result.split(1024), strict=True):
        resized = functional.interpolate(
            to_floats(chunk), (size, size), mode="bilinear", antialias=True
        )
        target.copy_(to_bytes(resized))
    return result

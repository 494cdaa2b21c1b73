"""Image data sets: scikit-learn's digits and those that torchvision reads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wgan_cli.data.dataset import Labels, TensorDataset, split
from wgan_cli.data.digits_table import digits_table
from wgan_cli.data.feeds import as_bytes, as_floats
from wgan_cli.data.torchvision_files import read_part
from wgan_cli.errors import DataError

TORCHVISION_CLASSES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


def digits(name: str = "digits") -> TensorDataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, of which 359 are held out."""
    table = digits_table()
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return split(torch.from_numpy(images), name, labels=labels)


def torchvision_images(
    name: str, root: str = "data", download: bool = True, flip: bool = False
) -> TensorDataset:
    """One of `TORCHVISION_CLASSES`; held out is its test split. Raises `DataError`."""
    if name not in TORCHVISION_CLASSES:
        known = ", ".join(TORCHVISION_CLASSES)
        raise DataError(f"dataset.name={name} is no data set read here: {known}.")
    parts = (
        read_part(name, TORCHVISION_CLASSES[name], root, download, train=train)
        for train in (True, False)
    )
    (train, train_labels), (test, test_labels) = parts
    labels = Labels(train_labels, test_labels)
    return TensorDataset(name, train.contiguous(), test.contiguous(), labels, flip=flip)


def flippable_images(
    name: str, root: str = "data", download: bool = True, flip: bool = False
) -> TensorDataset:
    """`torchvision_images` of things that are still themselves in a mirror, as writing is not."""
    return torchvision_images(name, root, download, flip)


def emnist(
    name: str = "emnist", root: str = "data", download: bool = True, split: str = "balanced"
) -> TensorDataset:
    """Handwritten letters and digits in one of EMNIST's six splits (arXiv 1702.05373, table II).

    Labels count from 0 in every split. Held out is the split's test part. Raises `DataError`.
    """
    (train, train_labels), (test, test_labels) = (
        read_part(name, "EMNIST", root, download, split=split, train=train)
        for train in (True, False)
    )
    # In the files the letters count from 1, and all images lie on their side, mirrored.
    first = 1 if split == "letters" else 0
    return TensorDataset(
        name,
        train.mT.contiguous(),
        test.mT.contiguous(),
        Labels(train_labels - first, test_labels - first),
    )


def svhn(
    name: str = "svhn", root: str = "data", download: bool = True, extra: bool = False
) -> TensorDataset:
    """House numbers cropped to one digit; `extra` adds the easier extra part to the training part.

    Held out is the test part. Raises `DataError`.
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
    """Photographs of ten kinds, made `size` x `size` from 96x96.

    With `unlabeled`, the 100,000 pictures without a class belong to the training part too, and the
    data set has no labels. Held out is the test part. Raises `DataError`.
    """

    def read(part: str) -> tuple[Tensor, Tensor]:
        images, labels = read_part(name, "STL10", root, download, split=part)
        return resized(images, size), labels

    (train, train_labels), (test, test_labels) = read("train"), read("test")
    if unlabeled:
        train = torch.cat([train, read("unlabeled")[0]])
    labels = None if unlabeled else Labels(train_labels, test_labels)
    return TensorDataset(name, train, test, labels, flip=flip)


def resized(images: Tensor, size: int) -> Tensor:
    """Images uint8 (n, c, h, w) at `size` x `size`, bilinear and antialiased."""
    if images.shape[2:] == (size, size):
        return images.contiguous()
    made = images.new_empty((*images.shape[:2], size, size))
    # Floats of all of a large set at once would need four times its memory, and more.
    for some, place in zip(images.split(1024), made.split(1024), strict=True):
        smaller = functional.interpolate(
            as_floats(some), (size, size), mode="bilinear", antialias=True
        )
        place.copy_(as_bytes(smaller))
    return made

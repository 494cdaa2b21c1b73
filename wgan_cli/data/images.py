"""scikit-learn's digits, and the labelled image data sets that torchvision reads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wgan_cli.data.dataset import Labels, TensorDataset, split
from wgan_cli.data.feeds import to_bytes, to_floats
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
    """Load scikit-learn's 1,797 handwritten digits, 8x8 grey; 359 are held out."""
    table = digits_table()
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    return split(torch.from_numpy(images), name, labels=labels)


def digits_table() -> np.ndarray:
    """Return 1,797 rows (1797, 65): the 64 grey values of an 8x8 image, 0 to 16, then the digit.

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
    """Load one of `TORCHVISION_CLASSES`; its test split is held out. Raises `DataError`."""
    if name not in TORCHVISION_CLASSES:
        known = ", ".join(TORCHVISION_CLASSES)
        raise DataError(f"dataset.name={name} is none of these data sets: {known}.")
    (train, train_labels), (test, test_labels) = (
        read_part(name, TORCHVISION_CLASSES[name], root, download, train=train)
        for train in (True, False)
    )
    labels = Labels(train_labels, test_labels)
    return TensorDataset(name, train.contiguous(), test.contiguous(), labels, flip=flip)


def flippable_images(
    name: str, root: str = "data", download: bool = True, flip: bool = False
) -> TensorDataset:
    """Load `torchvision_images` whose content may be mirrored, unlike letters and digits."""
    return torchvision_images(name, root, download, flip)


def emnist(
    name: str = "emnist", root: str = "data", download: bool = True, split: str = "balanced"
) -> TensorDataset:
    """Load handwritten letters and digits, one of EMNIST's six splits (arXiv 1702.05373, table II).

    Labels count from 0 in every split. The split's test part is held out. Raises `DataError`.
    """
    (train, train_labels), (test, test_labels) = (
        read_part(name, "EMNIST", root, download, split=split, train=train)
        for train in (True, False)
    )
    # In the files, the letters' labels count from 1, and all images are transposed.
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
    """Load house numbers cropped to one digit; `extra` adds the easier part `extra` to training.

    The test part is held out. Raises `DataError`.
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
    """Load photographs of ten classes, resized from 96x96 to `size` x `size`.

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


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images uint8 (n, c, h, w) to `size` x `size`, bilinear and antialiased."""
    if images.shape[2:] == (size, size):
        return images.contiguous()
    result = images.new_empty((*images.shape[:2], size, size))
    # In chunks: as floats, a large data set would need more than four times its memory.
    for chunk, target in zip(images.split(1024), result.split(1024), strict=True):
        resized = functional.interpolate(
            to_floats(chunk), (size, size), mode="bilinear", antialias=True
        )
        target.copy_(to_bytes(resized))
    return result

"""Image data sets: scikit-learn's digits and those that torchvision reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.dataset import Labels, TensorDataset, split
from wgan_cli.errors import DataError

TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}


def digits(name: str = "digits") -> TensorDataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, of which 359 are held out."""
    from sklearn.datasets import load_digits

    # Values are 0 to 16.
    loaded = load_digits()
    images = np.round(loaded.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(loaded.target.astype(np.int64))
    return split(torch.from_numpy(images[:, None]), name, labels=labels)


def torchvision_images(name: str, root: str = "data", download: bool = True) -> TensorDataset:
    """One of `TORCHVISION_CLASSES`; held out is its test split. Raises `DataError`."""
    folder = Path(root).expanduser()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"dataset.root={root} is a file; a folder is needed.")
    (train, train_labels), (test, test_labels) = (
        _read(name, folder, part, download) for part in (True, False)
    )
    return TensorDataset(name, train, test, Labels(train_labels, test_labels))


def _read(name: str, folder: Path, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Images and labels of one part."""
    import torchvision.datasets

    try:
        kind: Any = getattr(torchvision.datasets, TORCHVISION_CLASSES[name])
    except KeyError:
        known = ", ".join(TORCHVISION_CLASSES)
        raise DataError(f"dataset.name={name} is no data set read here: {known}.") from None
    try:
        part = kind(str(folder), train=train, download=download)
        return _as_images(part.data), torch.as_tensor(part.targets, dtype=torch.int64)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if download:
            advice = (
                "It could not be downloaded; check the network, or put the files there by hand and"
                " add dataset.download=false."
            )
        else:
            advice = (
                "Put the files there, name their folder by dataset.root, or add"
                " dataset.download=true."
            )
        raise DataError(
            f"{name} cannot be read from {folder.absolute()} ({reason}). {advice}"
        ) from error


def _as_images(data: Any) -> Tensor:
    """Torchvision's (n, h, w) tensors and (n, h, w, c) arrays as uint8 (n, c, h, w)."""
    images = torch.as_tensor(data)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        raise ValueError(f"not images: {images.dtype} of shape {tuple(images.shape)}")
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous()

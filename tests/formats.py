"""Writes small files in the original formats of torchvision's data sets."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import lmdb
import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_emnist(root: Path, split: str, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """`parts`: upright images (n, 28, 28) and the labels of the files, for train and test."""
    for part, (images, labels) in parts.items():
        prefix = f"{root}/EMNIST/raw/emnist-{split}-{part}"
        write_idx(Path(f"{prefix}-images-idx3-ubyte"), images.swapaxes(1, 2))
        write_idx(Path(f"{prefix}-labels-idx1-ubyte"), labels)


def write_cifar100(root: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """`parts`: images (n, 3, 32, 32) and fine labels, for train and test."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for part, (images, labels) in parts.items():
        entry = {
            "data": images.reshape(len(images), -1),
            "fine_labels": labels.tolist(),
            "coarse_labels": [0] * len(labels),
        }
        (folder / part).write_bytes(pickle.dumps(entry))
    names = {"fine_label_names": [str(n) for n in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))


def write_svhn(root: Path, parts: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """`parts`: images (n, 3, 32, 32) and the digits that they show."""
    root.mkdir(parents=True, exist_ok=True)
    for part, (images, digits) in parts.items():
        # In the files, the digit 0 has the label 10.
        labels = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
        content = {"X": images.transpose(2, 3, 1, 0), "y": labels}
        scipy.io.savemat(root / f"{part}_32x32.mat", content)


def write_stl10(root: Path, parts: dict[str, tuple[np.ndarray, np.ndarray | None]]) -> None:
    """`parts`: images (n, 3, 96, 96) and labels from 0, or None, for train, test and unlabeled."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for part, (images, labels) in parts.items():
        # Columns first, and labels from 1.
        (folder / f"{part}_X.bin").write_bytes(images.swapaxes(2, 3).tobytes())
        if labels is not None:
            (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())


def write_celeba(root: Path, images: Sequence[np.ndarray], parts: Sequence[int]) -> None:
    """`images` (h, w, 3) as JPEGs, and the part of each: 0 training, 1 validation, 2 test."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, len(images) + 1)]
    for name, pixels in zip(names, images, strict=True):
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)

    def table(file: str, *columns: str, header: bool = True) -> None:
        head = [str(len(names)), " ".join(columns)] if header else []
        rows = [f"{name}  {'  '.join('1' for _ in columns)}" for name in names]
        (folder / file).write_text("\n".join([*head, *rows]) + "\n")

    table("list_attr_celeba.txt", "Smiling", "Young")
    table("list_bbox_celeba.txt", "x_1", "y_1", "width", "height")
    table("list_landmarks_align_celeba.txt", "nose_x", "nose_y")
    table("identity_CelebA.txt", "identity", header=False)
    rows = [f"{name} {part}" for name, part in zip(names, parts, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")


def write_lsun(folder: Path, images: dict[str, bytes]) -> None:
    """An LMDB database of encoded images by their keys."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(str(folder), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, encoded in images.items():
            transaction.put(key.encode(), encoded)


def encoded(pixels: np.ndarray, kind: str = "webp") -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def accept_any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable checksums: the test files differ from the real archives, and None is not checked."""

    def unsealed(entries: Iterable[list[str]]) -> list[list[str | None]]:
        return [[*entry[:-1], None] for entry in entries]

    sets = torchvision.datasets
    for kind in (sets.CIFAR100, sets.STL10):
        monkeypatch.setattr(kind, "train_list", unsealed(kind.train_list))
        monkeypatch.setattr(kind, "test_list", unsealed(kind.test_list))
    monkeypatch.setattr(sets.CIFAR100, "meta", {**sets.CIFAR100.meta, "md5": None})
    files = [(file, None, name) for file, _, name in sets.CelebA.file_list]
    monkeypatch.setattr(sets.CelebA, "file_list", files)
    lists = sets.SVHN.split_list
    monkeypatch.setattr(
        sets.SVHN, "split_list", dict(zip(lists, unsealed(lists.values()), strict=True))
    )

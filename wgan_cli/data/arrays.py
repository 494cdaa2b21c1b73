"""A user's own samples: numpy arrays in a .npy or .npz file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.dataset import Labels, TensorDataset, split
from wgan_cli.data.feeds import as_bytes
from wgan_cli.errors import DataError

# What arrays are called in .npz files: the two parts, or all samples in one, and their labels.
PARTS = {"x_train": "x_test", "train": "test"}
WHOLE = ("x", "images", "data", "samples")
LABELS = ("y", "labels")
LABELS_OF = {"x_train": "y_train", "train": "y_train", "x_test": "y_test", "test": "y_test"}
MOST_CLASSES = 65_536

SHAPES = (
    "allowed are float points (n, d), and images, uint8 or float, of shape (n, h, w), (n, h, w, c)"
    " or (n, c, h, w) with 1 or 3 channels"
)


def array(
    name: str = "array", path: str = "data/array.npz", key: str | None = None
) -> TensorDataset:
    """Points or images from a file of numpy arrays, with labels where it has integers for them.

    Points (n, d) are floats and stay as they are. Images (n, h, w), (n, h, w, c) or (n, c, h, w) of
    1 or 3 channels are uint8, or floats that become uint8: in [0, 1], or in [-1, 1] where any is
    negative. Of an .npz file, `PARTS` are the training and the test part, else `WHOLE` or the
    array named by `key` is all; without a test part a fixed 20% is held out. Nothing pickled is
    loaded. Raises `DataError`.
    """
    try:
        with _opened(Path(path).expanduser()) as arrays:
            train, test = _chosen(arrays, key)
            parts = [train] if test is None else [train, test]
            samples = [np.atleast_1d(arrays[part]) for part in parts]
            labels = [
                _labels(arrays, part, len(part_samples), sum(map(len, samples)))
                for part, part_samples in zip(parts, samples, strict=True)
            ]
        signed = any(_is_float(part) and bool((part < 0).any()) for part in samples)
        tensors = [_as_samples(part, signed) for part in samples]
        if test is None:
            return split(tensors[0], name, labels=labels[0])
        if (labels[0] is None) != (labels[1] is None):
            raise ValueError("one of its two parts has labels and the other has none")
        both = None if labels[0] is None or labels[1] is None else Labels(labels[0], labels[1])
        if both is not None and set(both.held_out.tolist()) - set(both.train.tolist()):
            raise ValueError("its test part has labels that its training part has not")
        return TensorDataset(name, tensors[0], tensors[1], both)
    except (DataError, ValueError) as error:
        raise DataError(f"dataset.path={path}: {str(error).rstrip('.')}.") from error


@contextmanager
def _opened(file: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a file by name, read when they are asked for; that of an .npy file as ''."""
    try:
        loaded = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(
            "there is no such file; name a .npy or .npz file by dataset.path"
        ) from None
    # Anything from EOFError to BadZipFile.
    except Exception as error:
        raise ValueError(_unreadable(error)) from error
    if isinstance(loaded, np.ndarray):
        yield {"": loaded}
        return
    with loaded:
        yield _Archive(loaded)


class _Archive(Mapping[str, np.ndarray]):
    """An .npz file whose damage is said in plain words."""

    def __init__(self, loaded: Mapping[str, np.ndarray]) -> None:
        self.loaded = loaded

    def __getitem__(self, key: str) -> np.ndarray:
        try:
            return self.loaded[key]
        # A zip's checksums are looked at here, and pickled objects met.
        except Exception as error:
            raise ValueError(f"array {key}: {_unreadable(error)}") from error

    def __contains__(self, key: object) -> bool:
        return key in self.loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaded)

    def __len__(self) -> int:
        return len(self.loaded)


def _unreadable(error: Exception) -> str:
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "cut short"
    return (
        f"it cannot be read as numbers ({reason}); write it by numpy.save or numpy.savez, without"
        " Python objects"
    )


def _chosen(arrays: Mapping[str, np.ndarray], key: str | None) -> tuple[str, str | None]:
    """The names of the training part and of the test part, if there is one."""
    there = ", ".join(arrays)
    if key is not None:
        if "" in arrays:
            raise ValueError(f"dataset.key={key} has no effect on an .npy file, which is one array")
        if key not in arrays:
            raise ValueError(f"it has no array {key} (dataset.key), but {there}")
        return key, None
    for train, test in PARTS.items():
        if train in arrays:
            return train, test if test in arrays else None
    for whole in (*WHOLE, *(arrays if len(arrays) == 1 else ())):
        if whole in arrays:
            return whole, None
    known = ", ".join([*PARTS, *WHOLE])
    raise ValueError(
        f"its arrays are called {there or 'nothing'}; name the one that holds the samples by"
        f" dataset.key, or call it one of {known}"
    )


def _labels(arrays: Mapping[str, np.ndarray], part: str, count: int, most: int) -> Tensor | None:
    """The labels of a part's `count` samples, if there are any; `most` are all samples."""
    names = (LABELS_OF[part],) if part in LABELS_OF else LABELS
    for name in names:
        if name in arrays and name != part:
            found = arrays[name]
            if found.ndim == 2 and found.shape[1] == 1:
                found = found[:, 0]
            if found.shape != (count,) or not np.issubdtype(found.dtype, np.integer):
                raise ValueError(
                    f"labels of {count} samples must be integers of shape ({count},), but {name} is"
                    f" {found.dtype} of shape {found.shape}"
                )
            _check_classes(name, found, most)
            return torch.from_numpy(found.astype(np.int64))
    return None


def _check_classes(name: str, labels: np.ndarray, most: int) -> None:
    """A number that means something else, as an identity, would make as many classes."""
    classes = min(most, MOST_CLASSES)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels count the classes from 0 on, below the number of samples and {MOST_CLASSES:,},"
            f" so here to {classes - 1} at most, but {name} goes from {labels.min()} to"
            f" {labels.max()}"
        )


def _is_float(values: np.ndarray) -> bool:
    return np.issubdtype(values.dtype, np.floating)


def _as_samples(values: np.ndarray, signed: bool) -> Tensor:
    """Points or images as a `TensorDataset` keeps them."""
    if values.size == 0:
        raise ValueError(f"it holds no samples: an array has shape {values.shape}")
    if _is_float(values):
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("its samples hold NaN or infinite values, or some beyond float32")
    if values.ndim == 2 and _is_float(values):
        return torch.from_numpy(values)
    if values.ndim not in (3, 4) or not (_is_float(values) or values.dtype == np.uint8):
        raise ValueError(f"its samples are {values.dtype} of shape {values.shape}; {SHAPES}")
    images = torch.from_numpy(values)
    if images.ndim == 3:
        images = images[:, None]
    elif _channels(images, 3) and not _channels(images, 1):
        images = images.permute(0, 3, 1, 2)
    elif not _channels(images, 1) or _channels(images, 3):
        raise ValueError(f"its images have shape {values.shape}; {SHAPES}")
    if images.is_floating_point():
        images = _floats_as_bytes(images, signed)
    return images.contiguous()


def _channels(images: Tensor, axis: int) -> bool:
    return images.shape[axis] in (1, 3)


def _floats_as_bytes(images: Tensor, signed: bool) -> Tensor:
    least, most = float(images.min()), float(images.max())
    if least < -1 or most > 1:
        raise ValueError(
            f"its images are floats from {least:g} to {most:g}; scale them to [0, 1] or [-1, 1], or"
            " save them as uint8"
        )
    return as_bytes(images if signed else 2 * images - 1)

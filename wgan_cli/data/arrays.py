"""A user's own samples: numpy arrays in a .npy or .npz file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.dataset import Labels, TensorDataset, split
from wgan_cli.data.feeds import to_bytes
from wgan_cli.errors import DataError
from wgan_cli.out_of_memory import is_out_of_memory
from wgan_cli.untrusted_files import refuse_special

# Names of arrays in .npz files. PARTS maps the training part to its test part. UNSPLIT has the
# names for an array of all samples, and LABELS the names for its labels. LABELS_OF maps each part
# to its labels.
PARTS = {"x_train": "x_test", "train": "test"}
UNSPLIT = ("x", "images", "data", "samples")
LABELS = ("y", "labels")
LABELS_OF = {"x_train": "y_train", "train": "y_train", "x_test": "y_test", "test": "y_test"}
MAX_CLASSES = 65_536

SHAPES = (
    "allowed are float points (n, d), and images, uint8 or float, of shape (n, h, w), (n, h, w, c)"
    " or (n, c, h, w) with 1 or 3 channels"
)


def array(
    name: str = "array", path: str = "data/array.npz", key: str | None = None
) -> TensorDataset:
    """Load points or images, and their integer labels if there are any, from a numpy file.

    Points (n, d) are floats and are not scaled. Images (n, h, w), (n, h, w, c) or (n, c, h, w) have
    1 or 3 channels. They are uint8, or floats that are converted to uint8: from [0, 1], or from
    [-1, 1] if any value is negative. An .npz file has a training and a test array, named as in
    `PARTS`, or one array of all samples, named `key` or as in `UNSPLIT`. Without a test part, a
    fixed 20% of the samples is held out. Raises `DataError` if the file is missing, malformed or
    holds pickled objects.
    """
    try:
        with _open(Path(path).expanduser()) as arrays:
            train, test = _choose_parts(arrays, key)
            parts = [train] if test is None else [train, test]
            samples = [np.atleast_1d(_read(arrays, part)) for part in parts]
            labels = [
                _labels(arrays, part, len(part_samples), sum(map(len, samples)))
                for part, part_samples in zip(parts, samples, strict=True)
            ]
        signed = any(_is_float(part) and bool((part < 0).any()) for part in samples)
        tensors = [_to_samples(part, signed) for part in samples]
        if test is None:
            return split(tensors[0], name, labels=labels[0])
        if (labels[0] is None) != (labels[1] is None):
            raise ValueError("one of its two parts has labels and the other has none")
        both = None if labels[0] is None or labels[1] is None else Labels(labels[0], labels[1])
        if both is not None and set(both.held_out.tolist()) - set(both.train.tolist()):
            raise ValueError("its test part has labels that are not in its training part")
        return TensorDataset(name, tensors[0], tensors[1], both)
    except (DataError, ValueError) as error:
        raise DataError(f"dataset.path={path}: {str(error).rstrip('.')}.") from error


@contextmanager
def _open(file: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield a mapping from names to the file's arrays.

    The arrays of an .npz file are read on access. The only array of an .npy file has the name ''.
    """
    try:
        # Reading a pipe or a device may never end.
        refuse_special(file)
        # A map fails at once if the header asks for more than the file holds.
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(
            "there is no such file; set dataset.path to an .npy or .npz file"
        ) from None
    # A damaged file raises anything from EOFError to BadZipFile.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(_unreadable(error)) from error
    if isinstance(loaded, np.ndarray):
        yield {"": np.array(loaded)}
        return
    with loaded:
        yield loaded


def _read(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return arrays[name]
    # numpy checks the zip's checksums and detects pickled objects only on access.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"array {name}: {_unreadable(error)}") from error


def _unreadable(error: Exception) -> str:
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "cut short"
    return (
        f"it cannot be read as numbers ({reason}); write it with numpy.save or numpy.savez, without"
        " Python objects"
    )


def _choose_parts(arrays: Mapping[str, np.ndarray], key: str | None) -> tuple[str, str | None]:
    """Return the names of the training array and the test array (None without a test array)."""
    available = ", ".join(arrays)
    if key is not None:
        if "" in arrays:
            raise ValueError(f"dataset.key={key} has no effect on an .npy file, which is one array")
        if key not in arrays:
            raise ValueError(f"it has no array {key} (dataset.key), only {available}")
        return key, None
    for train, test in PARTS.items():
        if train in arrays:
            return train, test if test in arrays else None
    for name in (*UNSPLIT, *(arrays if len(arrays) == 1 else ())):
        if name in arrays:
            return name, None
    known = ", ".join([*PARTS, *UNSPLIT])
    raise ValueError(
        f"its arrays are named {available or 'nothing'}; set dataset.key to the one that holds the"
        f" samples, or rename it to one of {known}"
    )


def _labels(arrays: Mapping[str, np.ndarray], part: str, count: int, total: int) -> Tensor | None:
    """Return a part's labels (count,), or None; `total` is the number of samples of all parts."""
    names = (LABELS_OF[part],) if part in LABELS_OF else LABELS
    for name in names:
        if name in arrays and name != part:
            labels = _read(arrays, name)
            if labels.ndim == 2 and labels.shape[1] == 1:
                labels = labels[:, 0]
            if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
                raise ValueError(
                    f"labels of {count} samples must be integers of shape ({count},), but {name} is"
                    f" {labels.dtype} of shape {labels.shape}"
                )
            # Larger integers are probably not classes but, for example, identities of persons.
            classes = min(total, MAX_CLASSES)
            if labels.size and not 0 <= labels.min() <= labels.max() < classes:
                raise ValueError(
                    f"labels must be classes from 0 to {classes - 1} (below the number of samples"
                    f" and {MAX_CLASSES:,}), but {name} goes from {labels.min()} to {labels.max()}"
                )
            return torch.from_numpy(labels.astype(np.int64))
    return None


def _is_float(values: np.ndarray) -> bool:
    return np.issubdtype(values.dtype, np.floating)


def _to_samples(values: np.ndarray, signed: bool) -> Tensor:
    """Return samples for a `TensorDataset`. Float images are in [-1, 1] if `signed`, or [0, 1]."""
    if values.size == 0:
        raise ValueError(f"it holds no samples: an array has shape {values.shape}")
    if _is_float(values):
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(
                "its samples hold NaN or infinite values, or values too large for float32"
            )
    if values.ndim == 2 and _is_float(values):
        return torch.from_numpy(values)
    if values.ndim not in (3, 4) or not (_is_float(values) or values.dtype == np.uint8):
        raise ValueError(f"its samples are {values.dtype} of shape {values.shape}; {SHAPES}")
    images = torch.from_numpy(values)
    if images.ndim == 3:
        images = images[:, None]
    else:
        first, last = (images.shape[axis] in (1, 3) for axis in (1, 3))
        if first == last:
            raise ValueError(f"its images have shape {values.shape}; {SHAPES}")
        if last:
            images = images.permute(0, 3, 1, 2)
    if images.is_floating_point():
        least, most = float(images.min()), float(images.max())
        if least < -1 or most > 1:
            raise ValueError(
                f"its images are floats from {least:g} to {most:g}; scale them to [0, 1] or"
                " [-1, 1], or save them as uint8"
            )
        images = to_bytes(images if signed else 2 * images - 1)
    return images.contiguous()

"""A user's own images, in folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wgan_cli.data.dataset import FIXED_SEED, Dataset
from wgan_cli.data.decoding import COLOUR, GREY
from wgan_cli.data.encoded import Faults, Files, ImagePart
from wgan_cli.data.streaming import MOST_HELD_OUT, encoded_images
from wgan_cli.errors import ConfigError, DataError
from wgan_cli.randomness import Draws, Stream

log = logging.getLogger(__name__)

ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
TRAINING = "train"
# The first of these that is there beside TRAINING.
HELD_OUT = ("test", "val", "valid", "validation")
_SHARE = 0.2


def image_folder(
    name: str = "image_folder",
    root: str = "data/images",
    size: int = 64,
    channels: int = COLOUR,
    flip: bool = False,
    in_memory: bool | None = None,
    workers: int | None = None,
    corrupt_limit: float = 0.01,
) -> Dataset:
    """Every image anywhere below `root`, as `size` x `size`, of 1 (grey) or 3 channels (colour).

    Where root has a folder `TRAINING` and one of `HELD_OUT`, they are the two parts and nothing
    else is read; otherwise a fixed 20% are held out, at most 10,000. Where every image lies in one
    of two or more folders of its part, they are its classes (as in torchvision's ImageFolder).
    Raises `DataError`.
    """
    if channels not in (GREY, COLOUR):
        raise ConfigError(f"dataset.channels must be 1 (grey) or 3 (colour), not {channels}.")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise DataError(
            f"{name}: the folder {folder.absolute()} {what}; name the folder that holds your images"
            " by dataset.root=FOLDER."
        )
    parts = _parts(folder)
    listed = [_images(folder / part) for part in parts]
    names = [
        "/".join((*([part] if part else []), *path))
        for part, paths in zip(parts, listed, strict=True)
        for path in paths
    ]
    if not names:
        raise DataError(
            f"{name}: {folder.absolute()} holds no image ({', '.join(ENDINGS)}); name the folder"
            " that holds yours by dataset.root=FOLDER."
        )
    training, held_out = _split([len(paths) for paths in listed])
    classes = _classes([path for paths in listed for path in paths], training, held_out, name)
    if len(parts) == 1:
        tops = {path[0] for path in listed[0]}
        if classes is not None:
            _refuse_parts_as_classes(name, folder, tops)
        elif tops == {TRAINING} and all(len(path) > 2 for path in listed[0]):
            log.warning(
                "%s: %s holds one folder, %s, so the folders inside it are not taken as classes;"
                " dataset.root=%s takes them.",
                name,
                folder,
                TRAINING,
                folder / TRAINING,
            )
    log.info(
        "%s: %d training and %d held-out images %s (%s)",
        name,
        len(training),
        min(len(held_out), MOST_HELD_OUT),
        "without classes" if classes is None else f"of {len(np.unique(classes))} classes",
        " and ".join(parts) if len(parts) == 2 else "all folders, split by chance",
    )
    source, faults = Files(folder, names), Faults(name, len(names), corrupt_limit)
    train, kept = (
        ImagePart(
            source,
            places,
            size,
            channels,
            faults.most,
            None if classes is None else classes[places],
        )
        for places in (training, held_out)
    )
    return encoded_images(
        name, train, kept, faults, flip=flip, in_memory=in_memory, workers=workers
    )


def _parts(root: Path) -> list[str]:
    """The folders of the training and the held-out part; one of no name where there are none."""
    folders = {entry.name for entry in root.iterdir() if entry.is_dir()}
    held_out = [name for name in HELD_OUT if name in folders]
    return [TRAINING, held_out[0]] if TRAINING in folders and held_out else [""]


def _refuse_parts_as_classes(name: str, folder: Path, classes: set[str]) -> None:
    """Raise `DataError` where folders that are taken as classes are named as parts are."""
    parts = sorted(each for each in classes if each.lower() in (TRAINING, *HELD_OUT))
    if parts:
        raise DataError(
            f"{name}: in {folder.absolute()}, {' and '.join(parts)} would be taken as classes. Name"
            f" the folders of the two parts {TRAINING} and {HELD_OUT[0]}, with folders as classes"
            " inside each or none, or rename these."
        )


def _images(root: Path) -> list[tuple[str, ...]]:
    """The images below a folder as paths from it, sorted by their parts."""
    return sorted(path for path in _walk(root, ()) if path[-1].lower().endswith(ENDINGS))


def _walk(
    folder: Path, path: tuple[str, ...], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    real = os.path.realpath(folder)
    # A link to a folder above would never end.
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            place, link = folder / entry.name, entry.is_symlink()
            if place.is_dir() if link else entry.is_dir():
                yield from _walk(place, (*path, entry.name), (*above, real))
            # A link that leads nowhere counts as unreadable; a pipe would never end.
            elif place.is_file() or not place.exists() if link else entry.is_file():
                yield (*path, entry.name)


def _split(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The places of the training and of the held-out images among all, ascending."""
    if len(counts) == 2:
        return np.arange(counts[0]), counts[0] + np.arange(counts[1])
    order = Draws(FIXED_SEED, Stream.HELD_OUT).numpy().permutation(counts[0])
    count = min(int(_SHARE * counts[0]), MOST_HELD_OUT)
    return np.sort(order[count:]), np.sort(order[:count])


def _classes(
    paths: Sequence[tuple[str, ...]], training: np.ndarray, held_out: np.ndarray, name: str
) -> np.ndarray | None:
    """The class of every image, or None where not all lie in one of two or more folders."""
    if any(len(path) == 1 for path in paths):
        return None
    names, classes = np.unique([path[0] for path in paths], return_inverse=True)
    if len(names) == 1:
        return None
    unseen = set(classes[held_out]) - set(classes[training])
    if unseen:
        log.warning(
            "%s: folders are not taken as classes, for %s has no image in the training part.",
            name,
            names[min(unseen)],
        )
        return None
    return classes.astype(np.int64)

"""A user's own image files, in folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wgan_cli.data.dataset import FIXED_SEED, Dataset
from wgan_cli.data.encoded import COLOUR, GREY, Faults, FileSource, ImagePart
from wgan_cli.data.streaming import MAX_HELD_OUT, encoded_images
from wgan_cli.errors import ConfigError, DataError
from wgan_cli.randomness import Draws, Stream

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
TRAINING = "train"
# Folder names of the held-out part, in the order of preference.
HELD_OUT = ("test", "val", "valid", "validation")
_HELD_OUT_FRACTION = 0.2


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
    """Return all images at any depth below `root`, with sides of `size` pixels.

    `channels` is 1 (grey) or 3 (colour). If `root` has a folder `TRAINING` and a folder with a name
    in `HELD_OUT`, these are the two parts, and other folders are ignored. Otherwise a fixed 20% of
    the images, at most 10,000, is held out. If all images of a part lie in two or more subfolders,
    the subfolders are the classes, as in torchvision's ImageFolder. Raises `DataError` if there are
    no images or too few.
    """
    if channels not in (GREY, COLOUR):
        raise ConfigError(f"dataset.channels must be 1 (grey) or 3 (colour), not {channels}.")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"{name}: the folder {folder.absolute()} {problem}; name the folder that holds your"
            " images with dataset.root=FOLDER."
        )
    parts = _parts(folder)
    paths_by_part = [
        sorted(path for path in _walk(folder / part) if path[-1].lower().endswith(SUFFIXES))
        for part in parts
    ]
    names = [
        "/".join(filter(None, (part, *path)))
        for part, paths in zip(parts, paths_by_part, strict=True)
        for path in paths
    ]
    if not names:
        raise DataError(
            f"{name}: {folder.absolute()} holds no image ({', '.join(SUFFIXES)}); name the folder"
            " that holds your images with dataset.root=FOLDER."
        )
    training, held_out = _split([len(paths) for paths in paths_by_part])
    all_paths = [path for paths in paths_by_part for path in paths]
    classes = _classes(all_paths, training, held_out, name)
    if len(parts) == 1:
        top_folders = {path[0] for path in all_paths}
        like_parts = sorted(each for each in top_folders if each.lower() in (TRAINING, *HELD_OUT))
        if classes is not None and like_parts:
            raise DataError(
                f"{name}: in {folder.absolute()}, {' and '.join(like_parts)} would be classes. Name"
                f" the two parts {TRAINING} and {HELD_OUT[0]}, with or without class folders in"
                " each, or rename these folders."
            )
        two_deep = all(len(path) > 2 for path in all_paths)
        if classes is None and top_folders == {TRAINING} and two_deep:
            log.warning(
                "%s: %s holds only the folder %s, so the folders inside it are not used as classes;"
                " dataset.root=%s uses them.",
                name,
                folder,
                TRAINING,
                folder / TRAINING,
            )
    log.info(
        "%s: %d training and %d held-out images %s (%s)",
        name,
        len(training),
        min(len(held_out), MAX_HELD_OUT),
        "without classes" if classes is None else f"of {len(np.unique(classes))} classes",
        " and ".join(parts) if len(parts) == 2 else "all folders, split at random",
    )
    source, faults = FileSource(folder, names), Faults(name, len(names), corrupt_limit)
    train, test = (
        ImagePart(
            source, indices, size, channels, faults, None if classes is None else classes[indices]
        )
        for indices in (training, held_out)
    )
    return encoded_images(train, test, flip=flip, in_memory=in_memory, workers=workers)


def _parts(root: Path) -> list[str]:
    """Return the folders of the training and held-out parts, or [""] if one is missing."""
    folders = {entry.name for entry in root.iterdir() if entry.is_dir()}
    held_out = [name for name in HELD_OUT if name in folders]
    return [TRAINING, held_out[0]] if TRAINING in folders and held_out else [""]


def _walk(
    folder: Path, path: tuple[str, ...] = (), ancestors: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield the relative path of each file below a folder, as a tuple of components."""
    real = os.path.realpath(folder)
    # Following a link to a parent folder would never end.
    if real in ancestors:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            child, is_link = folder / entry.name, entry.is_symlink()
            if child.is_dir() if is_link else entry.is_dir():
                yield from _walk(child, (*path, entry.name), (*ancestors, real))
            # List broken links, which count as unreadable images. Skip pipes: reading one may
            # block.
            elif child.is_file() or not child.exists() if is_link else entry.is_file():
                yield (*path, entry.name)


def _split(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training images and of the held-out images, each ascending."""
    if len(counts) == 2:
        return np.arange(counts[0]), counts[0] + np.arange(counts[1])
    order = Draws(FIXED_SEED, Stream.HELD_OUT).numpy().permutation(counts[0])
    count = min(int(_HELD_OUT_FRACTION * counts[0]), MAX_HELD_OUT)
    return np.sort(order[count:]), np.sort(order[:count])


def _classes(
    paths: Sequence[tuple[str, ...]], training: np.ndarray, held_out: np.ndarray, name: str
) -> np.ndarray | None:
    """Return the class of every image (n,), or None if the images are not in class folders."""
    if any(len(path) == 1 for path in paths):
        return None
    names, classes = np.unique([path[0] for path in paths], return_inverse=True)
    if len(names) == 1:
        return None
    unseen = set(classes[held_out]) - set(classes[training])
    if unseen:
        log.warning(
            "%s: folders are not used as classes, because %s has no image in the training part.",
            name,
            names[min(unseen)],
        )
        return None
    return classes.astype(np.int64)

"""The images for `benchmarks.throughput`'s colour workloads: a user's folder, or generated ones.

What takes minutes to generate or decode is cached in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets, transforms

from wgan_cli.build import cache_folder
from wgan_cli.errors import DataError

COUNT = 50_000
CLASSES = 10


def smooth_images(count: int | None = None, size: int = 64) -> Path:
    """Return a folder of `count` smooth random JPEGs in ten class folders, created if missing."""
    count = count or COUNT

    def write(folder: Path) -> None:
        print(f"Writing {count} smooth random JPEGs of {size}x{size} into {folder.parent} ...")
        write_smooth(folder, count, size)

    return _kept(f"smooth-{size}-{count}", write)


def write_smooth(folder: Path, count: int, size: int) -> None:
    """Write `count` smooth random JPEGs into ten class folders below `folder`."""
    rng = np.random.default_rng(0)
    for kind in range(CLASSES):
        (folder / f"kind{kind}").mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image = coarse.resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f"kind{number % CLASSES}" / f"{number:06}.jpg", quality=90)


def chosen(root: Path) -> Path:
    """Return the folder, or a folder of links to `COUNT` of its images if it has more.

    Raises `DataError` if it has no class folders with images.
    """
    try:
        paths = [Path(path).absolute() for path, _ in datasets.ImageFolder(str(root)).samples]
    except OSError as error:
        raise DataError(
            f"--images {root}: the folder must hold a folder of images for each class"
            f" ({str(error).splitlines()[0].rstrip('.')})."
        ) from None
    if len(paths) <= COUNT:
        return root

    def link(folder: Path) -> None:
        # Evenly from all classes.
        for number in np.linspace(0, len(paths) - 1, COUNT).round().astype(int):
            path = paths[number].relative_to(root.absolute())
            link_path = folder / path.parts[0] / f"{number:08}{path.suffix}"
            link_path.parent.mkdir(parents=True, exist_ok=True)
            link_path.symlink_to(paths[number])

    return _kept(f"links-{_name(root)}-{COUNT}", link)


def as_array(root: Path, size: int) -> Path:
    """Return a .npy file of a folder's images, uint8 (n, size, size, 3), decoded once."""
    images = datasets.ImageFolder(
        str(root), transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
    )

    def decode(folder: Path) -> None:
        print(f"Decoding {len(images)} images of {root} to {size}x{size} into {folder.parent} ...")
        pixels = np.empty((len(images), size, size, 3), np.uint8)
        for place in range(len(images)):
            pixels[place] = np.asarray(images[place][0])
        folder.mkdir()
        np.save(folder / "images.npy", pixels)

    return _kept(f"array-{_name(root)}-{size}-{len(images)}", decode) / "images.npy"


def _name(root: Path) -> str:
    return hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:12]


def _kept(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache; create it under a temporary name, so that it is complete."""
    cache = cache_folder()
    assert cache is not None
    folder = cache / "throughput" / name
    if not folder.exists():
        unfinished = folder.with_name(f"{name}.unfinished")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        make(unfinished)
        unfinished.rename(folder)
    return folder

"""LSUN: scenes of ten kinds, up to three million each (Yu et al., arXiv 1506.03365)."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.decoding import COLOUR, FORMATS
from wgan_cli.data.encoded import Faults, ImagePart
from wgan_cli.data.streaming import encoded_images
from wgan_cli.errors import DataError


def lsun(
    name: str = "lsun",
    root: str = "data",
    category: str = "bedroom",
    size: int = 64,
    flip: bool = False,
    in_memory: bool | None = None,
    workers: int | None = None,
    corrupt_limit: float = 0.01,
) -> Dataset:
    """One category's scenes, their middle squares as `size` x `size`, in colour, without classes.

    `root` holds `<category>_train_lmdb` and `<category>_val_lmdb`, where torchvision has them too;
    the latter's 300 are held out. Raises `DataError`.
    """
    folder = Path(root).expanduser()
    training, held_out = (
        _opened(name, folder / f"{category}_{part}_lmdb") for part in ("train", "val")
    )
    faults = Faults(name, len(training) + len(held_out), corrupt_limit)
    train, kept = (
        ImagePart(source, np.arange(len(source)), size, COLOUR, faults.most)
        for source in (training, held_out)
    )
    return encoded_images(
        name, train, kept, faults, flip=flip, in_memory=in_memory, workers=workers
    )


class Database:
    """Encoded images in an LMDB folder, in the order of their keys.

    torchvision's own reader leaves a pickle of the keys in the current folder and trusts one that
    it finds there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment: Any = None
        self._process: int | None = None
        with self._transaction() as transaction, _answered(folder):
            # An array, as a list of so many keys would be copied in every process that reads it.
            self._keys = np.array(list(transaction.cursor().iternext(values=False)))

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, place: int) -> str:
        """The folder and the key."""
        return f"{self.folder}: {self._keys[place].decode(errors='replace')}"

    def open(self, place: int) -> Image.Image:
        """The image under a key."""
        with self._transaction() as transaction:
            return Image.open(io.BytesIO(transaction.get(self._keys[place])), formats=FORMATS)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None, "_process": None}

    def _transaction(self) -> Any:
        if self._process != os.getpid():
            import lmdb

            # LMDB forbids using a database that was opened before a fork.
            if self._environment is not None:
                self._environment.close()
            with _answered(self.folder):
                self._environment = lmdb.open(
                    str(self.folder), readonly=True, lock=False, readahead=False, meminit=False
                )
            self._refuse_truncated()
            self._process = os.getpid()
        return self._environment.begin()

    def _refuse_truncated(self) -> None:
        # The file is mapped into memory: reading beyond its end would kill the process.
        file = self.folder / "data.mdb"
        pages, page = self._environment.info()["last_pgno"] + 1, self._environment.stat()["psize"]
        there, needed = file.stat().st_size, pages * page
        if there < needed:
            raise DataError(
                f"{file} is cut short: it has {there} of {needed} bytes. Fetch or unpack it again."
            )


@contextmanager
def _answered(folder: Path) -> Iterator[None]:
    import lmdb

    try:
        yield
    except lmdb.Error as error:
        raise DataError(
            f"{folder} is no LMDB database, or a damaged one ({error}). Fetch or unpack it again."
        ) from error


def _opened(name: str, folder: Path) -> Database:
    try:
        import lmdb  # noqa: F401
    except ImportError:
        raise DataError(
            f'{name} is read by the package lmdb, which is not installed: pip install "wgan-train'
            '[lsun]".'
        ) from None
    if not folder.is_dir():
        raise DataError(
            f"{name}: there is no folder {folder.absolute()}. Fetch LSUN by the download.py of"
            " github.com/fyu/lsun, unpack its zip files, and name the folder they are in by"
            " dataset.root=FOLDER."
        )
    return Database(folder)

"""LSUN: ten categories of scenes, up to three million images each (Yu et al., arXiv 1506.03365)."""

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
from wgan_cli.data.encoded import COLOUR, FORMATS, Faults, ImagePart
from wgan_cli.data.streaming import encoded_images
from wgan_cli.errors import DataError
from wgan_cli.untrusted_files import refuse_special


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
    """Return one category in colour, cropped to a centred square and resized, without classes.

    `root` holds the folders `<category>_train_lmdb` and `<category>_val_lmdb`, as for torchvision.
    The 300 `val` images are held out. Raises `DataError` if files are missing or damaged.
    """
    folder = Path(root).expanduser()
    databases = [_open(name, folder / f"{category}_{part}_lmdb") for part in ("train", "val")]
    faults = Faults(name, sum(map(len, databases)), corrupt_limit)
    train, test = (
        ImagePart(database, np.arange(len(database)), size, COLOUR, faults)
        for database in databases
    )
    return encoded_images(train, test, flip=flip, in_memory=in_memory, workers=workers)


class Database:
    """Encoded images in an LMDB folder, in the order of their keys.

    torchvision's reader is not used: it caches the keys as a pickle in the current folder, and
    would load a pickle that someone else left there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment: Any = None
        self._process: int | None = None
        with self._transaction() as transaction, _as_data_errors(folder):
            # Use an array: forked reader processes would copy the memory of a list of keys.
            self._keys = np.array(list(transaction.cursor().iternext(values=False)))

    def __len__(self) -> int:
        return len(self._keys)

    def name(self, index: int) -> str:
        """Return the folder and key of an image, for messages."""
        return f"{self.folder}: {self._keys[index].decode(errors='replace')}"

    def open(self, index: int) -> Image.Image:
        """Return the opened image with the given index."""
        with self._transaction() as transaction:
            return Image.open(io.BytesIO(transaction.get(self._keys[index])), formats=FORMATS)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_environment": None, "_process": None}

    def _transaction(self) -> Any:
        if self._process != os.getpid():
            import lmdb

            # LMDB forbids using a database that was opened before a fork, so open it again.
            if self._environment is not None:
                self._environment.close()
            with _as_data_errors(self.folder):
                refuse_special(self.folder / "data.mdb")
                self._environment = lmdb.open(
                    str(self.folder), readonly=True, lock=False, readahead=False, meminit=False
                )
            # LMDB maps the file into memory: reading beyond its end would kill the process.
            file = self.folder / "data.mdb"
            pages = self._environment.info()["last_pgno"] + 1
            size, needed = file.stat().st_size, pages * self._environment.stat()["psize"]
            if size < needed:
                raise DataError(
                    f"{file} is truncated: it has {size} of {needed} bytes. Fetch or unpack it"
                    " again."
                )
            self._process = os.getpid()
        return self._environment.begin()


@contextmanager
def _as_data_errors(folder: Path) -> Iterator[None]:
    import lmdb

    try:
        yield
    except (lmdb.Error, OSError, ValueError) as error:
        raise DataError(
            f"{folder} is not an LMDB database, or is damaged ({error}). Fetch or unpack it again."
        ) from error


def _open(name: str, folder: Path) -> Database:
    try:
        import lmdb  # noqa: F401
    except ImportError:
        raise DataError(
            f'{name} needs the package lmdb, which is not installed: pip install "wgan-train'
            '[lsun]".'
        ) from None
    if not folder.is_dir():
        raise DataError(
            f"{name}: there is no folder {folder.absolute()}. Fetch LSUN with download.py from"
            " github.com/fyu/lsun, unpack its zip files, and name the folder that holds them with"
            " dataset.root=FOLDER."
        )
    return Database(folder)

"""File locks, which the kernel drops with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from wgan_cli.files import disk_error


def locked(path: Path) -> TextIO | None:
    """Make the file at `path` and lock it until it is closed; None if another process holds it.

    Raises `DiskError`.
    """
    while True:
        try:
            file = path.open("a")
        except OSError as error:
            raise disk_error(error, path) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            file.close()
            raise disk_error(error, path, done="locked") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        # Its last holder has removed it meanwhile: others would lock a new file at this path.
        file.close()


def is_stale(path: Path) -> bool:
    """Whether the lock file at `path` exists and no process holds it.

    False if that is unknown, as on a network disk without `flock`. The file is not changed.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` within the context; wait while another process holds it.

    The file is removed afterwards. Raises `DiskError`.
    """
    while (file := locked(path)) is None:
        time.sleep(0.02)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()

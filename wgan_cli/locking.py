"""Locks that a dead process never holds."""

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
    """The lock file at `path`, made and locked until it is closed; None where another has it.

    The kernel drops the lock with the process. Raises `DiskError`.
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
        # Its owner removed it after it was opened here, so nobody else would find it locked.
        file.close()


def unheld(path: Path) -> bool:
    """Whether the lock file at `path` is there and nobody has it; neither made nor changed.

    False where that cannot be told, as on a network disk without `flock`.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Inside, nobody else is inside for this lock file; who comes later waits. Raises `DiskError`.

    The file is gone afterwards.
    """
    while (file := locked(path)) is None:
        time.sleep(0.02)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()

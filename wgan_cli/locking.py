"""Lock files. The kernel releases a lock when the process that holds it ends."""

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
    """Create and lock the file `path`; return the open file, or None if another process has it.

    Closing the file releases the lock. Raises `DiskError`.
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
        # The last holder removed this file, so another process could lock a new one: retry.
        file.close()


def is_stale(path: Path) -> bool:
    """Return whether the lock file `path` exists and no process holds it.

    False if this is unknown, as on a network disk without `flock`. The file is not changed.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file `path` within the context; wait while another process holds it.

    The file is removed at the end. Raises `DiskError`.
    """
    while (file := locked(path)) is None:
        time.sleep(0.02)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()

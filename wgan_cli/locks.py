"""Lock files, which show other processes that a run, a job or a cache is in use."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

from wgan_cli import operating_system
from wgan_cli.errors import DiskError
from wgan_cli.files import disk_error

log = logging.getLogger(__name__)

# What the kernel answers where files cannot be locked: on network disks without a lock service.
_NO_LOCKS = operating_system.error_numbers("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")


def locked(path: Path, *, risk: str = "") -> TextIO | None:
    """Create and lock the file `path`; return it open, or None if another process holds the lock.

    Closing the file releases the lock; the operating system closes the file when the process ends.
    Remove the file by `remove_locked` only. If the disk has no locks, log `risk`, which says what
    the user must not do now, and return the file; without a `risk`, this is an error, too. Raises
    `DiskError`.
    """
    while True:
        try:
            file = operating_system.while_in_use(lambda: path.open("a", encoding="utf-8"))
        except OSError as error:
            raise disk_error(error, path) from None
        try:
            ours = _lock(file)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                file.close()
                raise disk_error(error, path, done="locked") from None
            reason = f"The disk of {path.parent} cannot lock files ({error.strerror})."
            if not risk:
                file.close()
                raise DiskError(f"{reason} Choose a folder on another disk.") from None
            log.warning("%s %s", reason, risk)
            return file
        if not ours:
            file.close()
            return None
        if operating_system.is_at(path, file.fileno()):
            return file
        # The last holder of the lock has removed this file, and others will lock a new one: retry.
        file.close()


def is_stale(path: Path) -> bool:
    """Return whether the lock file `path` exists and no process holds it.

    Return False if this cannot be found out, for example on a network disk without locks. The file
    is not changed.
    """
    # Network disks lock only files that are open for writing, and other users' files may not be.
    for flags in (operating_system.OPEN_AT_ONCE, operating_system.READ_AT_ONCE):
        with suppress(OSError), os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
            return _lock(file)
    return False


@contextmanager
def held(path: Path, *, risk: str = "") -> Iterator[None]:
    """Hold the lock file `path` within the context; wait while another process holds it.

    The file is removed at the end. `risk` is that of `locked`. Raises `DiskError`.
    """
    while (file := locked(path, risk=risk)) is None:
        time.sleep(0.02)
    try:
        yield
    finally:
        remove_locked(path, file)


def remove_locked(path: Path, file: TextIO) -> None:
    """Remove the lock file `path`, and release the lock by closing `file`."""
    operating_system.remove_open(path, file.close)


def _lock(file: IO[Any]) -> bool:
    """Lock an open file without waiting; return False if another process holds the lock."""
    # Import only here: it takes as long as all else that a refused command does.
    from filelock import lock_descriptor

    return lock_descriptor(file.fileno(), blocking=False)

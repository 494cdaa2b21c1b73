"""Files, memory and consoles, where Linux, macOS and Windows differ.

Only this module and `process_control` contain such conditions. Where a system lacks something, the
function's docstring says what is lost there, and docs/reliability.md has a table. The conditions
ask for features, not for names of systems.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO, TypeVar

T = TypeVar("T")

# More flags for `os.open`. A pipe in the file's place does not wait for another process, and a
# process that is started meanwhile does not inherit the descriptor. (Windows has no pipes among its
# files, and a process inherits no descriptor there.)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
READ_AT_ONCE, OPEN_AT_ONCE = os.O_RDONLY | _AT_ONCE, os.O_RDWR | _AT_ONCE

# Windows does not replace or open a file that another program has just opened. These errors of
# Windows mean this: access denied, sharing violation, lock violation.
_IN_USE = (5, 32, 33)
_RETRY_SECONDS = 2.0


def error_numbers(*names: str) -> tuple[int, ...]:
    """Return the numbers of those errors, such as EDQUOT, that this system has."""
    return tuple(getattr(errno, name) for name in names if hasattr(errno, name))


def common_folder(paths: Sequence[str]) -> Path | None:
    """Return the folder that holds all these paths, None for paths on several drives of Windows."""
    try:
        return Path(os.path.commonpath(paths)) if paths else Path()
    except ValueError:
        return None


def relative(path: str, base: Path | None) -> str:
    """Return the path as seen from `base`, with slashes on all systems; all of it without a base.

    So the name of a run in a report is the same on every system.
    """
    return Path(path if base is None else os.path.relpath(path, base)).as_posix()


def is_windows_console(stream: TextIO) -> bool:
    """Return whether the stream writes to a console of Windows.

    Python converts its text for the console, which shows other bytes as wrong characters.
    """
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return isinstance(raw, getattr(io, "_WindowsConsoleIO", ()))


def user_id() -> int:
    """Return the id of this user. On Windows 0: a user's temporary files are private there."""
    return os.getuid() if hasattr(os, "getuid") else 0


def peak_memory() -> int | None:
    """Return the most memory that this process has used, in bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes this user may still write on a folder's disk; None if unknown."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def has_room_for_files(folder: Path) -> bool:
    """Return False if the disk has reached its limit on the number of files.

    On Windows always True: its file systems have no such limit.
    """
    if not hasattr(os, "statvfs"):
        return True
    disk = os.statvfs(folder)
    return not disk.f_files or disk.f_favail > 0


def allocated_bytes(status: os.stat_result) -> int:
    """Return how many bytes a file can hold without more room on the disk; on Windows its size."""
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * 512


def sync_file(descriptor: int) -> None:
    """Wait until a file's data are on the disk. The file must be open for writing.

    On macOS, `os.fsync` leaves them in the disk's own cache, where a power failure can lose them.
    """
    # A module that Windows lacks, and a call that network disks do not know.
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined]
        return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk.

    On Windows, and on some network disks, folders cannot be synced: a power failure there may undo
    the last renames, so that the file before is found again.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in error_numbers("EINVAL", "ENOTSUP", "EOPNOTSUPP"):
            raise
    finally:
        os.close(descriptor)


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`, which it replaces.

    On Windows this fails while another program has `target` open for longer than two seconds. The
    readers of this package close a file at once.
    """
    while_in_use(lambda: source.replace(target))


def remove(path: Path) -> None:
    """Remove a file, if it exists.

    On Windows, a file that another program keeps open for longer than two seconds stays.
    """
    try:
        while_in_use(lambda: path.unlink(missing_ok=True))
    except OSError as error:
        if not _is_in_use(error):
            raise


def remove_open(path: Path, close: Callable[[], None]) -> None:
    """Remove a file that this process has open, then call `close`, which closes it.

    The order matters for a lock: nobody else may hold the removed file. Windows removes no open
    file, so close it first there; if another process has opened it meanwhile, it stays.
    """
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        close()
        with suppress(OSError):
            path.unlink(missing_ok=True)
    finally:
        close()


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether the open file is at `path` still. On Windows nobody can remove it."""
    if not hasattr(os, "O_DIRECTORY"):
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def while_in_use(action: Callable[[], T]) -> T:
    """Return `action()`. On Windows, try again for two seconds if another program has the file."""
    until = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            return action()
        except OSError as error:
            if not _is_in_use(error) or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _is_in_use(error: OSError) -> bool:
    # Only Windows sets this number.
    return getattr(error, "winerror", None) in _IN_USE

"""Files that hold all of what was written or none of it, and the words for a disk that is full."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from wgan_cli.errors import CheckpointError, DiskError

# What can be full, and what to do about it.
_FULL = {
    errno.ENOSPC: ("The disk is full", "Free some space."),
    errno.EDQUOT: ("The disk quota is used up", "Free some space."),
    errno.EFBIG: ("A file is as large as it may be", "Raise the limit (ulimit -f)."),
}


def write_whole(path: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Make `path` hold all of `data`, or leave what was there before, and no temporary file.

    A `durable` file outlasts a power failure, which costs a wait for the disk. Raises `DiskError`.
    """
    # A link stays one. Another process may be writing the same file.
    place = Path(os.path.realpath(path))
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        try:
            # Not through a link that somebody put there.
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _sync_folder(place.parent)
    except OSError as error:
        raise disk_error(error, path, len(data)) from None


def sync(path: Path) -> None:
    """Wait until what was written to a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_over(path: Path, data: bytes) -> bool:
    """Put `data` in the blocks that `path` has already; whether that was possible.

    The last resort of a last word: a full disk has no room for a second file. A kill amid this
    leaves half of it.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            status = os.fstat(file.fileno())
            if len(data) > status.st_blocks * 512:
                return False
            before = file.read()
            try:
                _write(file.fileno(), data)
            except OSError:
                _write(file.fileno(), before)
                return False
            file.truncate(len(data))
            return True
    except OSError:
        return False


class Growing:
    """A file that grows by whole records: of one that does not fit, nothing stays.

    Every record is in the file when `write` returns, without a wait for the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise disk_error(error, path) from None

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, record: bytes) -> None:
        """Add a record to the end. Raises `DiskError`."""
        size = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(record)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:
            with suppress(OSError):
                self._file.truncate(size)
            if isinstance(error, OSError):
                raise disk_error(error, self.path, len(record)) from None
            raise

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """No more records come. Some network disks tell only now that they are full."""
        try:
            self._file.close()
        except OSError as error:
            raise disk_error(error, self.path) from None


def disk_error(
    error: OSError, path: Path | None = None, needed: int | None = None, *, done: str = "written"
) -> DiskError:
    """What it means that a file, of `needed` more bytes where that is known, was not `done`."""
    if not is_full(error):
        return DiskError(f"{path or 'A file'} cannot be {done}: {error.strerror or error}.")
    limit, remedy = _FULL[error.errno or 0]
    if path is None:
        return DiskError(f"{limit}. {remedy}")
    size = "some" if needed is None else f"{needed:,}"
    return DiskError(f"{limit}: {path} needs {size} bytes and {_room(path)}. {remedy}")


def is_full(error: OSError) -> bool:
    """Whether there was no space: on the disk, in a quota or under a limit."""
    return error.errno in _FULL


def refuse_link(path: Path) -> None:
    """Raise `CheckpointError` for a link to a file or folder elsewhere.

    Somebody else may have packed the run, and what is written to it must not go elsewhere.
    """
    if not path.is_symlink() or path.is_char_device():
        return
    # Path.resolve raises for a loop.
    place = Path(os.path.realpath(path))
    if not place.is_relative_to(path.parent.resolve()):
        raise CheckpointError(
            f"{path} is a link to {place}, and a run writes to its own folder alone: put what"
            " it points to in its place, or remove it."
        )


def _room(path: Path) -> str:
    """What is free where the file would be."""
    try:
        disk = os.statvfs(path.absolute().parent)
    except OSError:
        return "too few are free"
    if disk.f_files and not disk.f_favail:
        return "the disk holds as many files as it can"
    return f"{disk.f_bavail * disk.f_frsize:,} are free"


def _write(descriptor: int, data: bytes) -> None:
    """Over what the file begins with."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], done)


def _sync_folder(folder: Path) -> None:
    try:
        sync(folder)
    except OSError as error:
        # Some network disks have no such thing.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise

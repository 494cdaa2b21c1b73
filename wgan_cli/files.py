"""Atomic writes, a file of whole records, and error messages for a full disk."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from wgan_cli.errors import CheckpointError, DiskError

# Error number: what is full, and the remedy.
_FULL = {
    errno.ENOSPC: ("The disk is full", "Free some space."),
    errno.EDQUOT: ("The disk quota is used up", "Free some space."),
    errno.EFBIG: ("A file is as large as it may be", "Raise the limit (ulimit -f)."),
}


def write_atomically(path: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Replace the file by `data` in one step: on an error the old file stays, without leftovers.

    `durable` waits until the data are on the disk, so that the file survives a power failure.
    Raises `DiskError`.
    """
    # Write to a link's target, so that the link stays. The process id keeps two writers apart.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            # Never write through a link that somebody put at the temporary path.
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _sync_folder(target.parent)
    except OSError as error:
        raise disk_error(error, path, len(data)) from None


def sync(path: Path) -> None:
    """Wait until a file's data or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def overwrite_in_place(path: Path, data: bytes) -> bool:
    """Overwrite `path` within the disk blocks it already has; return whether that succeeded.

    This is the last resort on a full disk, where an atomic write has no room for a second file.
    It is not atomic: a process killed during the write leaves a damaged file.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            status = os.fstat(file.fileno())
            if len(data) > status.st_blocks * 512:
                return False
            before = file.read()
            try:
                _write_from_start(file.fileno(), data)
            except OSError:
                _write_from_start(file.fileno(), before)
                return False
            file.truncate(len(data))
            return True
    except OSError:
        return False


class RecordFile:
    """A file to which whole records are appended: a record that does not fit is removed again.

    A record is in the file when `write` returns, but not necessarily on the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise disk_error(error, path) from None

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, record: bytes) -> None:
        """Append a record. Raises `DiskError`."""
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
        """Do nothing: `write` does not buffer."""

    def close(self) -> None:
        """Close the file. Raises `DiskError`: some network disks report a full disk only here."""
        try:
            self._file.close()
        except OSError as error:
            raise disk_error(error, self.path) from None


def disk_error(
    error: OSError, path: Path | None = None, needed: int | None = None, *, done: str = "written"
) -> DiskError:
    """Turn `error` into a `DiskError` whose message says that `path` could not be `done`.

    `needed` is the number of bytes that were to be written, where it is known.
    """
    if not is_full(error):
        return DiskError(f"{path or 'A file'} cannot be {done}: {error.strerror or error}.")
    limit, remedy = _FULL[error.errno or 0]
    if path is None:
        return DiskError(f"{limit}. {remedy}")
    size = "some" if needed is None else f"{needed:,}"
    return DiskError(f"{limit}: {path} needs {size} bytes and {_free_space(path)}. {remedy}")


def is_full(error: OSError) -> bool:
    """Whether the disk was full, or a quota or file size limit was reached."""
    return error.errno in _FULL


def refuse_link(path: Path) -> None:
    """Raise `CheckpointError` for a link that points outside its own folder.

    A run folder may come from somebody else; writing to it must not change files elsewhere.
    """
    if not path.is_symlink() or path.is_char_device():
        return
    # Path.resolve would raise for links that form a loop.
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(path.parent.resolve()):
        raise CheckpointError(
            f"{path} is a link to {target}, and a run writes only to its own folder: replace the"
            " link by what it points to, or remove it."
        )


def _free_space(path: Path) -> str:
    try:
        disk = os.statvfs(path.absolute().parent)
    except OSError:
        return "too few are free"
    if disk.f_files and not disk.f_favail:
        return "the disk has reached its limit on the number of files"
    return f"{disk.f_bavail * disk.f_frsize:,} are free"


def _write_from_start(descriptor: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], done)


def _sync_folder(folder: Path) -> None:
    try:
        sync(folder)
    except OSError as error:
        # Some network disks cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise

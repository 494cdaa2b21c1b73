"""Write files atomically, append records and log messages, lock files, and explain disk errors."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from wgan_cli.errors import DiskError, WganError
from wgan_cli.terminal_text import printable

log = logging.getLogger(__name__)

# Maps an error number to the reason and the remedy that a message gives.
_FULL = {
    errno.ENOSPC: ("The disk is full", "Free some space."),
    errno.EDQUOT: ("The disk quota is used up", "Free some space."),
    errno.EFBIG: ("A file is as large as it may be", "Raise the limit (ulimit -f)."),
}
# What the kernel answers where files cannot be locked: on network disks without a lock service.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def write_atomically(path: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Replace the content of `path` by `data` as `replacing` does. Raises `DiskError`."""
    with replacing(path, len(data), durable=durable) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, size: int | None = None, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Yield a file that replaces `path` atomically at the end of the block.

    If the block raises or the disk is full, nothing of the new file is left, and the old file
    stays. If `durable` is true, wait until the data are on the disk; the new file then survives a
    power failure. `size`, in bytes, is for messages. Raises `DiskError`, also in place of an
    `OSError` of the block.
    """
    # If `path` is a link, write to its target, which keeps the link. The process id in the
    # temporary name separates concurrent writers.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            # Remove any link at the temporary path, so that nothing is written through it.
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _sync_folder(target.parent)
    except OSError as error:
        raise disk_error(error, path, size) from None


def sync(path: Path) -> None:
    """Wait until the data of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def overwrite_in_place(path: Path, data: bytes) -> bool:
    """Overwrite `path` within the disk blocks that it already has; return whether this succeeded.

    Use this only on a full disk, where an atomic write has no room for its second file. A process
    that is killed during this write leaves a damaged file.
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
    """A file for appending records. If a record cannot be written completely, none of it is kept.

    When `write` returns, other processes can read the record, but it may not be on the disk yet.
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
        """Close the file. Raises `DiskError`, because some network disks report errors only now."""
        try:
            self._file.close()
        except OSError as error:
            raise disk_error(error, self.path) from None


class PrintableFormatter(logging.Formatter):
    """A formatter whose text is safe to print: messages hold names and texts of others' files."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message as text, with its line breaks."""
        return printable(super().format(record), "\n")


class LogFile(logging.Handler):
    """A logging handler that writes each message with its time, as a complete line or not at all.

    If the disk is full, `emit` raises no error, because the message itself may report an error that
    must not be lost. `emit` stores the disk error in `failure`, and `LogWatch` raises it later.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
        self.path = path
        self.failure: DiskError | None = None
        self._file: RecordFile | None = None

    def open(self) -> None:
        """Open the file. Call this before the first message."""
        self._file = RecordFile(self.path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; store a disk error in `failure`."""
        try:
            assert self._file is not None
            self._file.write(self.format(record).encode() + b"\n")
        except DiskError as error:
            self.failure = self.failure or error

    def close(self) -> None:
        """Close the file; store a disk error in `failure`."""
        try:
            if self._file is not None:
                self._file.close()
        except DiskError as error:
            self.failure = self.failure or error
        super().close()


def locked(path: Path, *, risk: str = "") -> TextIO | None:
    """Create and lock the file `path`; return it open, or None if another process holds the lock.

    Closing the file releases the lock; the kernel closes the file when the process ends. If the
    disk has no locks, log `risk`, which says what the user must not do now, and return the file;
    without a `risk`, this is an error, too. Raises `DiskError`.
    """
    while True:
        try:
            file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(error, path) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
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
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        # The last holder of the lock has removed this file, and others will lock a new one: retry.
        file.close()


def is_stale(path: Path) -> bool:
    """Return whether the lock file `path` exists and no process holds it.

    Return False if this cannot be found out, for example on a network disk without `flock`. The
    file is not changed.
    """
    try:
        # Opened like this, a pipe in its place does not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def held(path: Path, *, risk: str = "") -> Iterator[None]:
    """Hold the lock file `path` within the context; wait while another process holds it.

    The file is removed at the end. `risk` is that of `locked`. Raises `DiskError`.
    """
    while (file := locked(path, risk=risk)) is None:
        time.sleep(0.02)
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def disk_error(
    error: OSError, path: Path | None = None, needed: int | None = None, *, done: str = "written"
) -> DiskError:
    """Return a `DiskError` for `error`, with a message such as "PATH cannot be written".

    `done` is the verb of that message. `needed` is the size of the write in bytes, None if unknown.
    """
    if (error.strerror or "").startswith("No usable temporary directory"):
        return DiskError("No folder for temporary files can be written: set TMPDIR to one.")
    if not is_full(error):
        return DiskError(f"{path or 'A file'} cannot be {done}: {error.strerror or error}.")
    limit, remedy = _FULL[error.errno or 0]
    if path is None:
        return DiskError(f"{limit}. {remedy}")
    size = "some" if needed is None else f"{needed:,}"
    return DiskError(f"{limit}: {path} needs {size} bytes and {_free_space(path)}. {remedy}")


@contextmanager
def reading(what: object, kind: type[WganError]) -> Iterator[None]:
    """Raise `kind`, in plain words, if the block cannot read the file or folder `what`."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what} cannot be read: {error.strerror or error}.") from None


def is_full(error: OSError) -> bool:
    """Return whether the error means a full disk, a used-up quota or the file size limit."""
    return error.errno in _FULL


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

"""Write files atomically, append records and log messages, lock files, and explain disk errors."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from wgan_cli import operating_system
from wgan_cli.errors import DiskError, WganError
from wgan_cli.terminal_text import printable

# Maps an error number to the reason and the remedy that a message gives.
_FULL = {
    errno.ENOSPC: ("The disk is full", "Free some space."),
    errno.EFBIG: ("A file is as large as it may be", "Raise the limit (ulimit -f)."),
    **dict.fromkeys(
        operating_system.error_numbers("EDQUOT"), ("The disk quota is used up", "Free some space.")
    ),
}


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
                    operating_system.sync_file(file.fileno())
            operating_system.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            operating_system.sync_folder(target.parent)
    except OSError as error:
        raise disk_error(error, path, size) from None


def sync(path: Path) -> None:
    """Wait until the data of a file are on the disk."""
    with path.open("r+b", buffering=0) as file:
        operating_system.sync_file(file.fileno())


def overwrite_in_place(path: Path, data: bytes) -> bool:
    """Overwrite `path` within the disk blocks that it already has; return whether this succeeded.

    Use this only on a full disk, where an atomic write has no room for its second file. A process
    that is killed during this write leaves a damaged file.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            if len(data) > operating_system.allocated_bytes(os.fstat(file.fileno())):
                return False
            before = file.read()
            try:
                _write_from_start(file, data)
            except OSError:
                _write_from_start(file, before)
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
    folder = path.absolute().parent
    free = operating_system.free_bytes(folder)
    if free is None:
        return "too few are free"
    if not operating_system.has_room_for_files(folder):
        return "the disk has reached its limit on the number of files"
    return f"{free:,} are free"


def _write_from_start(file: FileIO, data: bytes) -> None:
    file.seek(0)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]

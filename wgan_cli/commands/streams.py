"""Let a command go on when its output has nowhere to go: closed streams, pipes and full disks."""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

from wgan_cli.operating_system import is_windows_console


class _Outlasting(io.FileIO):
    """A file that drops what it cannot write; `failure` is the first error, or None."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write the data, or drop them after an error; return how many bytes are dealt with."""
        size = len(memoryview(data).cast("B"))
        if self.failure is not None:
            return size
        try:
            # None: the stream does not block, as another program has set it, and its pipe is full.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.failure = error
            return size
        return written


def set_up_streams() -> None:
    """Make printing safe: it raises no error, and never writes to a file of the command.

    If a standard stream is closed, its descriptor goes to the next file that is opened, and a print
    of a C library would end up there. Therefore closed descriptors are opened on /dev/null.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor == number:
                os.set_inheritable(descriptor, True)
            else:
                os.dup2(descriptor, number)
                os.close(descriptor)
    sys.stdout = _outlasting(sys.stdout, 1)
    sys.stderr = _outlasting(sys.stderr, 2)


def failure_of(stream: TextIO | None) -> OSError | None:
    """Flush the stream; return the first error in writing it, or None."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        # Otherwise Python would flush again at its exit, fail, and exit with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Outlasting) else None


def _outlasting(stream: TextIO | None, number: int) -> TextIO:
    encoding, errors, by_line = "utf-8", "backslashreplace", number == 2
    if isinstance(stream, io.TextIOWrapper):
        if is_windows_console(stream):
            stream.reconfigure(errors="replace")
            return stream
        with suppress(OSError):
            stream.flush()
        # Under PYTHONUNBUFFERED, a stream writes through instead of writing by line.
        encoding, by_line = stream.encoding, stream.line_buffering or stream.write_through
        # Names of files may hold characters that the terminal's encoding lacks.
        errors = stream.errors if stream.errors not in (None, "strict") else "replace"
        number = stream.fileno()
    elif stream is None:
        # Python found this stream closed, and its descriptor may belong to another file by now.
        number = os.open(os.devnull, os.O_WRONLY)
    else:
        return stream
    raw = _Outlasting(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=by_line
    )

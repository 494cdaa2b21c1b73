"""What differs between Linux, macOS and Windows. Other modules contain no such conditions.

Where a system lacks something, the function's docstring says what is lost there. The table in
docs/reliability.md collects these losses. The conditions ask for features, not for names of
systems.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

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


def signals_named(*names: str) -> tuple[signal.Signals, ...]:
    """Return those of the signals that this system has.

    Windows has SIGINT, SIGBREAK (Ctrl-Break) and a SIGTERM that no other process can send; nothing
    tells a process there that its terminal or its job is about to end.
    """
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def error_numbers(*names: str) -> tuple[int, ...]:
    """Return the numbers of those errors, such as EDQUOT, that this system has."""
    return tuple(getattr(errno, name) for name in names if hasattr(errno, name))


@contextmanager
def signals_blocked(numbers: Iterable[int]) -> Iterator[None]:
    """Block these signals in this thread, and in processes that it starts within the context.

    Windows cannot block signals: Ctrl-C reaches a process there while it starts.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals(numbers: Iterable[int]) -> None:
    """Receive signals that a parent process has blocked; do nothing where none can be blocked."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def ask_to_end(process_id: int) -> None:
    """Send SIGTERM to another process of this terminal, which then saves its run.

    On Windows do nothing, since `os.kill` would end the process at once there. The console has sent
    Ctrl-C or Ctrl-Break to all its processes anyway.
    """
    if _has_posix_processes():
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGTERM)


def ask_this_process_to_end() -> None:
    """Send SIGTERM to this process, from any of its threads; its handler runs."""
    if _has_posix_processes():
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGTERM)


def parent_has_ended(parent_id: int) -> bool:
    """Return whether the process that started this one has ended; `parent_id` was its id.

    On Windows, this is known only in processes that multiprocessing or joblib has started.
    """
    if _has_posix_processes():
        return os.getppid() != parent_id
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def start_stoppable(command: Iterable[str], lock: int, **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that `stop` can end; it keeps the lock on the descriptor `lock`.

    On Windows, a lock belongs to the process that took it: it ends with this process, even if the
    new one still runs.
    """
    if hasattr(subprocess, "CREATE_NEW_PROCESS_GROUP"):
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP
    else:
        options["pass_fds"] = (lock,)
    return subprocess.Popen(list(command), **options)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process from `start_stoppable` to save its run and to end, by SIGTERM or Ctrl-Break.

    On Windows, a process without a console cannot be asked: it is ended at once, and its newest
    checkpoint remains.
    """
    try:
        process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
    except OSError:
        process.terminate()


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def shell_words(words: Iterable[str]) -> str:
    """Return a command to paste into a shell, with each word quoted if it needs this.

    On Windows, the quotes are those of PowerShell. In cmd.exe such a word means something else.
    """
    return shlex.join(words) if _has_posix_processes() else " ".join(map(_for_powershell, words))


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

    On Windows this fails while another program has `target` open. Try again for two seconds there,
    because readers of this package close a file at once.
    """
    _while_in_use(lambda: source.replace(target))


def remove(path: Path) -> None:
    """Remove a file, if it exists.

    On Windows, a file that another program keeps open for longer than two seconds stays.
    """
    try:
        _while_in_use(lambda: path.unlink(missing_ok=True))
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
    close()


def _while_in_use(action: Callable[[], T]) -> T:
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


def _for_powershell(word: str) -> str:
    if re.fullmatch(r"[\w./:\\+=-]+", word, re.ASCII):
        return word
    # PowerShell also reads typographic quotes as quotes. Two of them stand for one.
    return "'" + re.sub("(['\u2018-\u201b])", r"\1\1", word) + "'"


def _has_posix_processes() -> bool:
    """Return whether SIGTERM reaches other processes and can be handled, as all but Windows do."""
    return hasattr(os, "fork")

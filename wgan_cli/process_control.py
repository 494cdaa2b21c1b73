"""Signals, processes and shells, where Linux, macOS and Windows differ.

Where a system lacks something, the function's docstring says what is lost there.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


def signals_named(*names: str) -> tuple[signal.Signals, ...]:
    """Return those of the signals that this system has.

    Windows has SIGINT, SIGBREAK (Ctrl-Break) and a SIGTERM that no other process can send; nothing
    tells a process there that its terminal or its job is about to end.
    """
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


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


def shell_words(words: Iterable[str]) -> str:
    """Return a command to paste into a shell, with each word quoted if it needs this.

    On Windows, the quotes are those of PowerShell. In cmd.exe such a word means something else.
    """
    return shlex.join(words) if _has_posix_processes() else " ".join(map(_for_powershell, words))


def _for_powershell(word: str) -> str:
    if re.fullmatch(r"[\w./:\\+=-]+", word, re.ASCII):
        return word
    # PowerShell also reads typographic quotes as quotes. Two of them stand for one.
    return "'" + re.sub("(['\u2018-\u201b])", r"\1\1", word) + "'"


def _has_posix_processes() -> bool:
    """Return whether SIGTERM reaches other processes and can be handled, as all but Windows do."""
    return hasattr(os, "fork")

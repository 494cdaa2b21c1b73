"""Record what a process does to files, other processes and the network, by Python's audit events.

`record(file)` starts the record in the process itself, for good: Python cannot remove an audit
hook. Each event is written to the file at once, so that a killed process leaves its record too.
Forked children share it; new programs do not. `read(file)` returns the events.

What C code does without Python (torch's checkpoint writer, SQLite) raises no event; only
`sqlite3.connect` does.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Event(NamedTuple):
    """What happened, and to what.

    `action` is one of

    - "write": a file is opened for writing, or its mode, owner, times or length change;
    - "make", "remove": a name is made or removed (both for the two names of a renaming);
    - "execute": the code of a Python or extension file is executed;
    - "import": a module that was not there is looked for, by its dotted name;
    - "program": a program is started; `what` is its command line;
    - "network": a socket is bound or connected, or a host's name is looked up.

    Paths are absolute and free of links, except for a last part that is made or removed.
    """

    action: str
    what: str


def record(file: Path) -> None:
    """Append this process's events to the file from now on."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        events_of = _EVENTS.get(name)
        if events_of is None:
            return
        # An exception here would be raised in the code that is watched.
        with suppress(Exception):
            for event in events_of(*arguments):
                os.write(descriptor, f"{json.dumps(event)}\n".encode())

    sys.addaudithook(hook)


def read(file: Path) -> list[Event]:
    """Return the events of a record, in their order; none if there is no file."""
    if not file.exists():
        return []
    return [Event(*json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def changed(events: Iterable[Event]) -> set[Path]:
    """Return the paths that were written, made or removed."""
    return {Path(what) for action, what in events if action in ("write", "make", "remove")}


def executed(events: Iterable[Event]) -> set[Path]:
    """Return the Python and extension files whose code was executed."""
    return {Path(what) for action, what in events if action == "execute"}


def imported(events: Iterable[Event]) -> set[str]:
    """Return the names of the modules that were looked for."""
    return {what for action, what in events if action == "import"}


def programs(events: Iterable[Event]) -> list[str]:
    """Return the command lines of the programs that were started."""
    return [what for action, what in events if action == "program"]


def network(events: Iterable[Event]) -> list[str]:
    """Return the addresses that were bound, connected or looked up."""
    return [what for action, what in events if action == "network"]


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return os.fsdecode(value)
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return str(value)


def _path(path: Any, folder: int | None = None, *, follow: bool) -> str:
    """Return the absolute path; `folder` is the descriptor of the folder it is relative to."""
    if isinstance(path, int):
        return str(Path(f"/proc/self/fd/{path}").readlink())
    path = os.fsdecode(path)
    if folder is not None and folder >= 0:
        path = str(Path(f"/proc/self/fd/{folder}").readlink() / path)
    if follow:
        return os.path.realpath(path)
    above, last = os.path.split(path.rstrip("/"))
    return str(Path(os.path.realpath(above or "."), last))


def _opened(path: Any, mode: object, flags: int) -> list[Event]:
    # A descriptor was opened earlier.
    if isinstance(path, int) or not flags & WRITES:
        return []
    # An exclusive opening does not follow a link.
    follow = not flags & (os.O_EXCL | os.O_NOFOLLOW)
    return [Event("write", _path(path, follow=follow))]


def _touched(path: Any, *more: Any) -> list[Event]:
    folder = more[-1] if more and isinstance(more[-1], int) and len(more) > 1 else None
    return [Event("write", _path(path, folder, follow=True))]


def _made(path: Any, *more: Any) -> list[Event]:
    return [Event("make", _path(path, more[-1], follow=False))]


def _removed(path: Any, folder: int) -> list[Event]:
    return [Event("remove", _path(path, folder, follow=False))]


def _renamed(source: Any, target: Any, source_folder: int, target_folder: int) -> list[Event]:
    return [*_removed(source, source_folder), *_made(target, target_folder)]


def _linked(source: Any, target: Any, *folders: int) -> list[Event]:
    return _made(target, folders[-1])


def _executed(code: Any) -> list[Event]:
    file = code.co_filename
    return [] if file.startswith("<") else [Event("execute", _path(file, follow=True))]


def _imported(module: str, file: str | None, *more: object) -> list[Event]:
    if file:
        return [Event("execute", _path(file, follow=True))]
    return [Event("import", module)]


def _started(executable: object, arguments: object, *more: object) -> list[Event]:
    return [Event("program", _text(arguments or executable))]


def _connected(_: object, *address: object) -> list[Event]:
    return [Event("network", _text(address))]


def _database(path: Any) -> list[Event]:
    return [] if _text(path) == ":memory:" else [Event("write", _path(path, follow=True))]


_EVENTS: dict[str, Callable[..., list[Event]]] = {
    "open": _opened,
    "os.chmod": _touched,
    "os.chown": _touched,
    "os.utime": _touched,
    "os.truncate": lambda path, length: _touched(path),
    "os.mkdir": _made,
    "os.symlink": _linked,
    "os.link": _linked,
    "os.rename": _renamed,
    "os.remove": _removed,
    "os.rmdir": _removed,
    "exec": _executed,
    "import": _imported,
    "subprocess.Popen": _started,
    "os.exec": _started,
    "os.posix_spawn": _started,
    "os.system": lambda command: [Event("program", _text(command))],
    "pty.spawn": lambda arguments: [Event("program", _text(arguments))],
    "socket.connect": _connected,
    "socket.bind": _connected,
    "socket.getaddrinfo": lambda host, port, *more: [Event("network", f"{host} {port}")],
    "sqlite3.connect": _database,
}

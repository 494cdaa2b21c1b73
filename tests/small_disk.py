"""A disk small enough to be filled, in a process of its own."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import resource
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NEW_NAMESPACE, _NEW_USERS = 0x00020000, 0x10000000
_PRIVATE, _REMOUNT = 1 << 14 | 1 << 18, 1 << 5
_PAGE = 4096
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class SmallDisk:
    """A tmpfs mounted on `folder` that can be full and have room again.

    Where nothing may be mounted, or none is `wanted`, "full" is a limit on the size of every file,
    at one page, so that what is small can still be written.
    """

    folder: Path
    size: int
    wanted: bool = True
    mounted: bool = False

    def mount(self) -> None:
        """In a namespace that ends with the process; of its own users, unless it is root's."""
        own = 0 if os.geteuid() == 0 else _NEW_USERS
        user = os.geteuid()
        if not self.wanted or _libc.unshare(_NEW_NAMESPACE | own):
            return
        if own:
            with suppress(OSError):
                Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="utf-8")
        _libc.mount(b"none", b"/", None, _PRIVATE, None)
        self.mounted = self._mount(self.size)

    def fill(self) -> None:
        """Leave no page free."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (_PAGE, resource.RLIM_INFINITY))
            return
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(_PAGE))
            except OSError:
                return

    def make_room(self) -> None:
        """As much as anybody wants."""
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        if self.mounted:
            assert self._mount(1 << 28, _REMOUNT)

    def _mount(self, size: int, flags: int = 0) -> bool:
        where, options = str(self.folder).encode(), f"size={size}".encode()
        return _libc.mount(b"tmpfs", where, b"tmpfs", flags, options) == 0


def on_small_disk(disk: SmallDisk, story: Callable[[SmallDisk], Any]) -> Any:
    """What the story returns, told in a forked process whose current folder is the disk."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            disk.mount()
            os.chdir(disk.folder)
            told: Any = (True, story(disk))
        except BaseException:
            told = (False, traceback.format_exc())
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(told, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    assert data, "the process ended without a word"
    well, result = pickle.loads(data)
    assert well, result
    return result


def heard(command: Callable[[list[str]], int], *words: str) -> tuple[int, str]:
    """A command's exit code and what it said on stderr, in this process."""
    said = io.StringIO()
    sys.argv = ["wgan-train"]
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        return command(list(words)), said.getvalue()

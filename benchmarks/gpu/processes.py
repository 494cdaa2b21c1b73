"""Runs a child process that writes records, under a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.records import Record, parsed

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 40


@dataclass(frozen=True)
class Ending:
    """How a child process ended. `code` is negative for a signal, as in `subprocess`."""

    code: int
    timed_out: bool
    seconds: float
    stderr: str


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of children: this package can be imported from any folder."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(more or {})}


def run_child(
    arguments: Sequence[str],
    seconds: float,
    on_record: Callable[[Record], None],
    *,
    quiet: float = float("inf"),
    own_group: bool = True,
) -> Ending:
    """Run `python ARGUMENTS` until it ends or `seconds` are over; pass on each record it writes.

    At the limit, and after `quiet` seconds without a record, the child is killed and, with
    `own_group`, all processes that it started.
    """
    start = time.monotonic()
    heard = [start]
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment(),
        start_new_session=own_group,
    )
    tail: deque[str] = deque(maxlen=_TAIL)
    assert child.stdout is not None and child.stderr is not None
    lines, errors = child.stdout, child.stderr

    def read() -> None:
        for line in lines:
            record = parsed(line)
            if record is not None:
                heard[0] = time.monotonic()
                on_record(record)

    readers = [threading.Thread(target=read), threading.Thread(target=lambda: tail.extend(errors))]
    for reader in readers:
        reader.daemon = True
        reader.start()
    timed_out = False
    try:
        while not timed_out and child.poll() is None:
            now = time.monotonic()
            timed_out = now > start + seconds or now > heard[0] + quiet
            time.sleep(0.02)
    finally:
        _kill(child, own_group)
    for reader in readers:
        reader.join(5)
    return Ending(child.returncode, timed_out, time.monotonic() - start, "".join(tail))


def _kill(child: subprocess.Popen[str], group: bool) -> None:
    """Kill what is left of the child, and of the processes that it started."""
    try:
        if group:
            os.killpg(child.pid, signal.SIGKILL)
        elif child.poll() is None:
            child.kill()
    except ProcessLookupError:
        pass
    child.wait()

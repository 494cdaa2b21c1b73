"""Measure how much of the cores other programs use, and how long this process waits for a core.

Linux tells this in files below /proc. A kernel without `schedstat` tells only the first of the two.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wgan_cli.cores import usable_cpus

# The columns of /proc/stat that count time in which a core could not run another thread: user,
# nice, system, irq, softirq and steal (taken by other virtual machines).
_BUSY_COLUMNS = (1, 2, 3, 6, 7, 8)
# The unit of these times for programs, which is the same on all machines (USER_HZ).
_TICKS_PER_SECOND = 100


@dataclass(frozen=True)
class Reading:
    """Sums in seconds at a point in time: `busy` is of the cores that this process may use.

    `own` is the processor time of this process, and `delayed` maps each of its threads to the time
    for which the thread was ready to run and had no core.
    """

    time: float
    busy: float
    own: float
    delayed: dict[str, float]


@dataclass(frozen=True)
class Load:
    """How busy the machine was between two readings.

    `others` is the number of cores that other programs used. `delayed` is the number of this
    process's threads that waited for a core.
    """

    others: float
    delayed: float


def read(proc: Path = Path("/proc")) -> Reading:
    """Return a reading. Raises OSError or ValueError where the system does not tell."""
    usable = {f"cpu{number}" for number in usable_cpus()}
    ticks = 0
    for line in (proc / "stat").read_text(encoding="utf-8").splitlines():
        columns = line.split()
        if columns and columns[0] in usable:
            ticks += sum(int(columns[column]) for column in _BUSY_COLUMNS)
    delayed = {}
    for task in (proc / "self/task").iterdir():
        # A thread may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            delayed[task.name] = int((task / "schedstat").read_text(encoding="utf-8").split()[1])
    return Reading(
        time.monotonic(),
        ticks / _TICKS_PER_SECOND,
        time.process_time(),
        {task: nanoseconds / 1e9 for task, nanoseconds in delayed.items()},
    )


def load_between(before: Reading, after: Reading) -> Load:
    """Return the load between two readings. Threads that began or ended do not count as delayed."""
    seconds = max(after.time - before.time, 1e-9)
    others = (after.busy - before.busy) - (after.own - before.own)
    waited = sum(
        after.delayed[task] - before.delayed[task]
        for task in after.delayed.keys() & before.delayed.keys()
    )
    return Load(max(0.0, others) / seconds, max(0.0, waited) / seconds)

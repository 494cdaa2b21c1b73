"""Runs many cases of a part in worker processes, so that a crash costs one case only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from benchmarks.gpu.child import RESTART, command
from benchmarks.gpu.processes import run_child
from benchmarks.gpu.records import Record, Work


def run_cases(
    work: Work,
    part: int,
    cases: Sequence[str],
    workers: int,
    longest: float,
    listen: Callable[[Record], None] = lambda record: None,
) -> None:
    """Run the cases in `workers` processes at once, each of which runs its share one by one.

    If a process dies or a case hangs (no record for `longest` seconds), the case has failed, and a
    new process goes on with the next. Cases for which no time is left are counted as skipped.
    `listen` is called with every record.
    """
    shares = [list(cases[index::workers]) for index in range(workers)]
    threads = [
        threading.Thread(target=_share, args=(work, part, s, longest, listen)) for s in shares if s
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _share(
    work: Work, part: int, cases: list[str], longest: float, listen: Callable[[Record], None]
) -> None:
    while cases and work.left > 3:
        started: list[str] = []
        errors: list[str] = []

        def pass_on(
            record: Record, started: list[str] = started, errors: list[str] = errors
        ) -> None:
            if record["kind"] == "case":
                started.append(record["name"])
            elif record["kind"] == "error":
                errors.append(record["text"])
            else:
                work.report.write(record)
                listen(record)

        seconds = work.left - 1
        ending = run_child(
            command(work, part, seconds, cases), seconds, pass_on, quiet=longest, own_group=False
        )
        if ending.code == 0 and not ending.timed_out:
            return
        name = started[-1] if started else cases[0]
        if ending.code == RESTART:
            cases = cases[cases.index(name) + 1 :]
            work.report.fact(f"{name}: CUDA afterwards", "broken in its process; a new one goes on")
            continue
        if ending.timed_out and work.left <= 3:
            work.report.skipped(name, "cut off by the part's time")
        else:
            found = errors[-1] if errors else f"exit code {ending.code}"
            lines = ending.stderr.strip().splitlines()[-3:]
            what = "no end in time" if ending.timed_out else f"{found}; {' | '.join(lines)}"
            work.report.check(name, False, what, "the case ends")
        cases = cases[cases.index(name) + 1 :]
    if cases:
        work.report.skipped(f"{len(cases)} cases", f"no time left: {', '.join(cases)}")

"""Run one trial: start `wgan-train` in a new process and read its metric while it runs."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from wgan_cli.errors import InterruptedRunError, PreemptedError
from wgan_cli.files import disk_error
from wgan_cli.guard import inside
from wgan_cli.process_control import signal_name, start_stoppable, stop
from wgan_cli.run_folder import METRICS, RunFolder
from wgan_cli.run_status import read_status
from wgan_cli.search.study import FAILED, FINISHED, PRUNED

CONSOLE = "console.log"
STOPPED = "stopped"
# Seconds between two readings of a trial's metric.
POLL_SECONDS = 0.2
# Seconds that a trial has to save its state before it is killed.
_STOP_SECONDS = 30.0
_RESUMABLE = (PreemptedError.exit_code, InterruptedRunError.exit_code)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `state` is finished, pruned, failed or stopped.

    `value` is the metric of a finished trial, `reason` says why a trial failed, and `code` is the
    exit code. A stopped trial can be resumed from its newest checkpoint.
    """

    state: str
    value: float | None = None
    reason: str = ""
    code: int = 0


class MetricReader:
    """Reads the values of a run's metric from its growing `metrics.jsonl`.

    `tag` is the metric's key in that file, with or without the sample count at its end.
    """

    def __init__(self, run: RunFolder, tag: str) -> None:
        self.run = run
        self._tag = re.compile(rf"{re.escape(tag)}(_\d+k?)?")
        self._last_stat: tuple[int, int] | None = None
        self.values: dict[int, float] = {}
        self.tags: set[str] = set()

    def new_values(self) -> Iterator[tuple[int, float]]:
        """Yield (step, value) for each new step; skip NaN and infinite values."""
        try:
            file = (self.run.path / METRICS).stat()
        except FileNotFoundError:
            return
        if (file.st_mtime_ns, file.st_size) == self._last_stat:
            return
        self._last_stat = (file.st_mtime_ns, file.st_size)
        for point in self.run.read_metrics():
            self.tags.update(point)
            step = int(point["step"])
            for key, value in point.items():
                if not self._tag.fullmatch(key) or step in self.values:
                    continue
                self.values[step] = value
                if math.isfinite(value):
                    yield step, value


def run_trial(
    command: Sequence[str],
    metric: MetricReader,
    lock: TextIO,
    report: Callable[[int, float], bool],
    stop_requested: Callable[[], object],
) -> Outcome:
    """Run the command in a new process until it ends or is stopped; return how the trial ended.

    `report` receives each new step and value, and returns whether to prune the trial. If `report`
    or `stop_requested` returns a true value, the process is asked to save its state and to
    end. The process inherits the trial's lock. If the search dies first, the lock keeps other
    searches from starting the same trial.
    """
    run = metric.run

    def should_prune() -> bool:
        # Do not prune at the last step: stopping the run there would save no time.
        last, prune = read_status(run.path).steps, False
        for step, value in metric.new_values():
            prune |= report(step, value) and step != last
        return prune

    # A resumed trial may have finished already, or its earlier values may be a reason to prune it.
    prune = should_prune()
    if read_status(run.path).finished:
        return _outcome(0, metric)
    if prune:
        return Outcome(PRUNED)
    try:
        with inside(run.path, CONSOLE).open("ab") as console:
            process = start_stoppable(
                command,
                lock.fileno(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )
    except OSError as error:
        raise disk_error(error, run.path / CONSOLE) from None
    try:
        while _wait(process, POLL_SECONDS) is None:
            if stop_requested():
                return Outcome(STOPPED, code=_stop(process))
            if should_prune():
                _stop(process)
                # The run may have finished before the signal arrived.
                finished = read_status(run.path).finished
                return _outcome(0, metric) if finished else Outcome(PRUNED)
        should_prune()
        return _outcome(process.returncode, metric)
    finally:
        _stop(process)


def _outcome(code: int, metric: MetricReader) -> Outcome:
    if code in _RESUMABLE:
        return Outcome(STOPPED, code=code)
    if code:
        return Outcome(FAILED, reason=_failure_reason(code, metric.run), code=code)
    # Read the remaining lines of `metrics.jsonl`.
    list(metric.new_values())
    if not metric.values:
        return Outcome(FAILED, reason="the run measured no such metric")
    value = metric.values[max(metric.values)]
    if not math.isfinite(value):
        return Outcome(FAILED, reason=f"the metric is {value}")
    return Outcome(FINISHED, value)


def _failure_reason(code: int, run: RunFolder) -> str:
    """Return why a run failed, from its status, its signal or the last line of its output."""
    status = read_status(run.path)
    if status.exit_code == code and status.message:
        return status.message
    if code < 0:
        name = signal_name(-code)
        why = ", as happens when memory runs out" if name == "SIGKILL" else ""
        return f"ended by {name}{why}"
    lines = (run.path / CONSOLE).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last.removeprefix("wgan-train: ") or f"exit code {code}"


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit code, or None if the process still runs after `seconds`."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the process to end, kill it if it does not end in time; return its exit code."""
    stop(process)
    if _wait(process, _STOP_SECONDS) is None:
        process.kill()
    return process.wait()

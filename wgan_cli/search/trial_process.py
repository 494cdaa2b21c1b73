"""One trial: wgan-train in a process of its own, whose metrics are followed while it runs."""

from __future__ import annotations

import math
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from wgan_cli.errors import InterruptedRunError, PreemptedError
from wgan_cli.files import disk_error
from wgan_cli.run_folder import METRICS, RunFolder
from wgan_cli.run_status import read_status
from wgan_cli.search.study import FAILED, FINISHED, PRUNED

CONSOLE = "console.log"
STOPPED = "stopped"
# Seconds between two looks at a trial, and those that one which is told to end has for saving.
PAUSE = 0.2
PATIENCE = 30.0
_RESUMABLE = (PreemptedError.exit_code, InterruptedRunError.exit_code)


@dataclass(frozen=True)
class Ending:
    """How a trial ended: finished with a value, pruned, failed for a reason, or stopped.

    A stopped one saved itself, or can be taken up from its newest checkpoint. `code` is the
    process's exit code.
    """

    state: str
    value: float | None = None
    reason: str = ""
    code: int = 0


class Course:
    """The metric of a run by step, read from its `metrics.jsonl` as that grows.

    `tag` is a key of those lines, or one without the sample count at its end.
    """

    def __init__(self, run: RunFolder, tag: str) -> None:
        self.run = run
        self._tag = re.compile(rf"{re.escape(tag)}(_\d+k?)?")
        self._seen: tuple[int, int] | None = None
        self.values: dict[int, float] = {}
        self.tags: set[str] = set()

    def news(self) -> Iterator[tuple[int, float]]:
        """The finite values at steps that were not there before, NaN and infinite ones left out."""
        try:
            file = (self.run.path / METRICS).stat()
        except FileNotFoundError:
            return
        if (file.st_mtime_ns, file.st_size) == self._seen:
            return
        self._seen = (file.st_mtime_ns, file.st_size)
        for point in self.run.read_metrics():
            self.tags.update(point)
            step = int(point["step"])
            for key, value in point.items():
                if not self._tag.fullmatch(key) or step in self.values:
                    continue
                self.values[step] = value
                if math.isfinite(value):
                    yield step, value

    def last(self) -> float | None:
        """The newest value."""
        return self.values[max(self.values)] if self.values else None


def carry_out(
    command: Sequence[str],
    course: Course,
    lock: TextIO,
    report: Callable[[int, float], bool],
    asked: Callable[[], object],
) -> Ending:
    """Run the command to its end, and tell `report` each new value; returns how it ended.

    Where `report` says that the trial is not worth going on, or `asked` that the search is to
    end, the process is told by SIGTERM, by which a run saves itself. The process inherits the
    trial's lock: where it outlives this one, the trial is not begun a second time beside it.
    """
    run = course.run

    def hopeless() -> bool:
        # At its last step nothing is saved by ending it.
        last, found = read_status(run.path).steps, False
        for step, value in course.news():
            found |= report(step, value) and step != last
        return found

    lost = hopeless()
    if _finished(run):
        return _ending(0, course)
    if lost:
        return Ending(PRUNED)
    try:
        with (run.path / CONSOLE).open("ab") as console:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),
            )
    except OSError as error:
        raise disk_error(error, run.path / CONSOLE) from None
    try:
        while _waited(child, PAUSE) is None:
            if asked():
                return Ending(STOPPED, code=_end(child))
            if hopeless():
                _end(child)
                # It may have finished in the same moment.
                return _ending(0, course) if _finished(run) else Ending(PRUNED)
        hopeless()
        return _ending(child.returncode, course)
    finally:
        _end(child)


def _finished(run: RunFolder) -> bool:
    return read_status(run.path).finished


def _ending(code: int, course: Course) -> Ending:
    if code in _RESUMABLE:
        return Ending(STOPPED, code=code)
    if code:
        return Ending(FAILED, reason=_reason(code, course.run), code=code)
    for _ in course.news():
        pass
    value = course.last()
    if value is None:
        return Ending(FAILED, reason="it measured no such metric")
    if not math.isfinite(value):
        return Ending(FAILED, reason=f"the metric is {value}")
    return Ending(FINISHED, value)


def _reason(code: int, run: RunFolder) -> str:
    """Why a run failed: by its status, by the signal that ended it, or by its last line."""
    status = read_status(run.path)
    if status.exit_code == code and status.message:
        return status.message
    if code == -signal.SIGKILL:
        return "ended by SIGKILL, as where memory runs out"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    said = (run.path / CONSOLE).read_text(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return last.removeprefix("wgan-train: ") or f"exit code {code}"


def _waited(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _end(child: subprocess.Popen[bytes]) -> int:
    """Tell the process to end, and kill it where it does not; returns its exit code."""
    if child.poll() is None:
        child.terminate()
    code = _waited(child, PATIENCE)
    if code is None:
        child.kill()
        code = child.wait()
    return code

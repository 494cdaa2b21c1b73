"""Runs the package's commands as a user types them, and sorts what they print."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.gpu.processes import environment
from wgan_cli.cores import usable_cores

_MODULES = {"wgan-train": "train", "wgan-eval": "evaluate", "wgan-sample": "sample"}
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ (\w+) ")
_JOB_LINE = re.compile(r"^job +\d+  ")
# What a run says if it has to go on without a CUDA graph.
_NO_GRAPH = re.compile(r"kernel by kernel|cannot be (a CUDA graph|captured|recorded)")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Finished:
    """A command that has ended: exit code, what it printed, and its wall time.

    `first_step` is the time until its first line in metrics.jsonl, if it was watched.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    run: Path | None = None
    first_step: float | None = None
    timed_out: bool = False
    noted: dict[str, Any] = field(default_factory=dict)

    @property
    def foreign(self) -> list[str]:
        """The lines on stderr that are not the program's own log, as `train.log` has it."""
        return foreign_lines(self.stderr, [] if self.run is None else logged(self.run))

    @property
    def warnings(self) -> list[str]:
        """The warnings in the program's own log."""
        log = [] if self.run is None else logged(self.run)
        return [text for level, text in log if level != "INFO"]

    @property
    def without_graph(self) -> list[str]:
        """The lines that say that something runs without a CUDA graph."""
        return [line for line in self.stderr.splitlines() if _NO_GRAPH.search(line)]

    def in_short(self, wanted: int | None = None) -> str:
        """The exit code, and the end of stderr if another one was wanted."""
        if self.code == wanted and not self.timed_out:
            return f"exit code {self.code}"
        ended = "no end in time" if self.timed_out else f"exit code {self.code}"
        return f"{ended}: {' | '.join(self.stderr.strip().splitlines()[-3:])[-500:]}"


def logged(run: Path) -> list[tuple[str, str]]:
    """The messages of a run's log (and of a sweep's jobs), each with its level."""
    found: list[tuple[str, str]] = []
    for file in sorted(run.rglob("train.log")):
        level = "INFO"
        for line in file.read_text(errors="replace").splitlines():
            match = _LOG_LINE.match(line)
            if match is not None:
                level = match[1]
            found.append((level, line[match.end() :] if match else line))
    return found


def foreign_lines(stderr: str, log: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of stderr that are neither in the log nor a sweep's lines about its jobs."""
    own = {text.strip() for _, text in log}
    return [
        line
        for line in (part.rpartition("\r")[2].strip() for part in stderr.split("\n"))
        if line and line not in own and not _JOB_LINE.match(line)
    ]


def python(command: str) -> list[str]:
    """The words that run a command of the package, which need not be installed."""
    if command == "wgan-train":
        return [sys.executable, "-m", "wgan_cli"]
    code = f"from wgan_cli.commands.{_MODULES[command]} import main; main()"
    return [sys.executable, "-c", code]


def execute(
    command: str,
    words: Sequence[str],
    folder: Path,
    limit: float,
    *,
    run: Path | None = None,
    more: Mapping[str, str] | None = None,
    during: Callable[[subprocess.Popen[str], float], Any] | None = None,
) -> Finished:
    """Run a command in `folder`. `during` is called with the process and the start every 20 ms.

    What `during` returns, if not None, is kept in `noted["during"]`, and it is not called again.
    """
    start = time.monotonic()
    stdout, stderr = (folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
    first: float | None = None
    noted: dict[str, Any] = {}
    timed_out = False
    with stdout.open("w") as out, stderr.open("w") as err:
        process: subprocess.Popen[str] = subprocess.Popen(
            [*python(command), *words],
            cwd=folder,
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env=environment(more),
            text=True,
        )
        try:
            while process.poll() is None:
                if first is None and run is not None and written(run / "metrics.jsonl"):
                    first = time.monotonic() - start
                if during is not None and "during" not in noted:
                    value = during(process, start)
                    if value is not None:
                        noted["during"] = value
                if time.monotonic() > start + limit:
                    timed_out = True
                    break
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    return Finished(
        process.returncode,
        stdout.read_text(errors="replace"),
        stderr.read_text(errors="replace"),
        time.monotonic() - start,
        run,
        first,
        timed_out,
        noted,
    )


def train(run: Path, words: Sequence[str], limit: float, **more: Any) -> Finished:
    """Run `wgan-train WORDS` into the folder `run`."""
    run.parent.mkdir(parents=True, exist_ok=True)
    into = [] if any(word.startswith("resume=") for word in words) else [f"hydra.run.dir={run}"]
    return execute("wgan-train", [*words, *into], run.parent, limit, run=run, **more)


def written(file: Path) -> bool:
    """Whether the file holds at least one whole line."""
    try:
        return b"\n" in file.read_bytes()
    except OSError:
        return False


def stop_after_first_line(run: Path) -> Callable[[subprocess.Popen[str], float], Any]:
    """For `during`: send SIGTERM once the run has logged a step."""

    def during(process: subprocess.Popen[str], start: float) -> float | None:
        if not written(run / "metrics.jsonl"):
            return None
        process.send_signal(signal.SIGTERM)
        return time.monotonic() - start

    return during


def together(tasks: Mapping[str, Callable[[], Result]], at_once: int) -> dict[str, Result]:
    """Call all functions, `at_once` of them at a time, and return their results by name."""
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        futures = {name: pool.submit(task) for name, task in tasks.items()}
        return {name: future.result() for name, future in futures.items()}


def at_once() -> int:
    """How many commands may run side by side: three cores for each, at most five."""
    return max(1, min(5, usable_cores() // 3))

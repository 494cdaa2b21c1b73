"""Run a case in an empty folder, as a fork or as an installed script, and return what happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks import watching
from benchmarks.fork_server import BLANK_CHARTS
from benchmarks.forked_commands import CommandServer, ForkedProcess, Start
from benchmarks.fuzz.cases import Case, prepare
from benchmarks.fuzz.command_lines import SHORT
from benchmarks.fuzz.contents import OUTSIDE
from benchmarks.fuzz.edited_runs import RUN, SEARCH, SWEEP, decoys
from benchmarks.fuzz.own_configs import SPACES

# Seconds until a command is killed, and the most memory that it can ask for.
LIMIT = 30.0
MEMORY = 12 << 30
# The folders beside a case's folder that a command may use.
HOME, CACHE, TEMPORARY = "home", "cache", "tmp"
_HONEST: dict[str, list[tuple[str, list[str]]]] = {
    RUN: [
        ("wgan-train", [*SHORT, "ema=0.5", "checkpoint_every=1", f"hydra.run.dir={RUN}"]),
        ("wgan-sample", [RUN, "--n", "8"]),
        ("wgan-eval", [RUN, "--metrics", "exact", "--n", "8"]),
        ("wgan-report", [RUN]),
    ],
    SWEEP: [("wgan-train", ["-m", *SHORT, "seed=0,1", f"hydra.sweep.dir={SWEEP}"])],
    SEARCH: [
        ("wgan-search", ["space.yaml", *SHORT, "eval_every=1", "--trials", "1", "--dir", SEARCH])
    ],
}


@dataclass(frozen=True)
class Result:
    """What happened: `code` is the exit code, or None if the command was killed at the limit.

    `before` and `after` are the states (see `state_of`) of the case's folder, and `outside` those
    of the folder beside it.
    """

    case: Case
    folder: Path
    code: int | None
    seconds: float
    stdout: str
    stderr: str
    before: dict[str, str]
    after: dict[str, str]
    outside: tuple[dict[str, str], dict[str, str]]
    events: list[watching.Event]


# Charts take half of the time of a run or a report: one case in so many draws them.
DRAWN = 5


class Worker:
    """Runs one case after the other below a folder of its own.

    Honest runs are made there when they are first needed. A `limit` is in seconds.
    """

    def __init__(self, server: CommandServer, base: Path, limit: float = LIMIT) -> None:
        self.server, self.base, self.limit = server, base, limit
        self.folder = base / "case"
        for name in (HOME, CACHE, "honest"):
            (base / name).mkdir()

    def run(self, case: Case) -> Result:
        """Run the case; its folder stays until the next one."""
        for name in ("case", OUTSIDE, TEMPORARY):
            _remove_all(self.base / name)
            (self.base / name).mkdir()
        _fill(self.base / OUTSIDE)
        decoys(self.folder)
        (self.folder / "file").write_text("a file\n")
        if case.copied is not None:
            shutil.copytree(self._honest(case.copied), self.folder / case.copied)
        prepare(case, self.folder)
        before, outside = state_of(self.folder), state_of(self.base / OUTSIDE)
        record = self.base / "events"
        record.unlink(missing_ok=True)
        start = time.monotonic()
        code, out, err = self._process(case, record)
        seconds = time.monotonic() - start
        return Result(
            case,
            self.folder,
            code,
            seconds,
            out,
            err,
            before,
            state_of(self.folder),
            (outside, state_of(self.base / OUTSIDE)),
            watching.read(record),
        )

    def _process(self, case: Case, record: Path) -> tuple[int | None, str, str]:
        around = case.surroundings
        environment = {**self._environment(), **around.environment}
        if case.number % DRAWN:
            environment[BLANK_CHARTS] = "1"
        with ExitStack() as stack:
            out, err = (stack.enter_context(_stream(how)) for how in around.streams.values())
            closed = (n for n, how in enumerate(around.streams.values(), 1) if how == "closed")
            start = Start(
                stdout=out,
                stderr=err,
                closed=tuple(closed),
                umask=around.umask,
                memory=MEMORY,
                watch=str(record),
                new_session=True,
            )
            if around.fresh:
                process = _fresh(case, self.folder, environment, start)
            else:
                process = self.server.start(
                    case.command, case.words, self.folder, environment, start
                )
        # The descriptors are closed here: a pipe ends with the command.
        try:
            code = process.wait(self.limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return code, *process.communicate()

    def _environment(self) -> dict[str, str | None]:
        names = {"HOME": HOME, "XDG_CACHE_HOME": CACHE, "TMPDIR": TEMPORARY}
        return {
            **{name: str(self.base / folder) for name, folder in names.items()},
            "XDG_CONFIG_HOME": None,
            "MPLBACKEND": None,
            "PYTHONUNBUFFERED": None,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _honest(self, name: str) -> Path:
        """Return an honest folder of that name, to be copied."""
        place = self.base / "honest"
        if not (place / name).exists():
            (place / "space.yaml").write_bytes(SPACES["a good space"])
            for command, words in _HONEST[name]:
                done = self.server.run(command, words, place, self._environment())
                assert done.returncode == 0, done.stderr
        return place / name


@contextmanager
def working(limit: float = LIMIT) -> Iterator[Worker]:
    """A worker with a server of its own, below a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        base = Path(name).resolve()
        server = CommandServer(base / "server.log")
        try:
            yield Worker(server, base, limit)
        finally:
            server.close()


def state_of(folder: Path) -> dict[str, str]:
    """Return what is below a folder: each relative path with its kind, size and time of change."""
    found = {}
    for above, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(above, name)
            status = path.lstat()
            kind = "folder" if path.is_dir() and not path.is_symlink() else "file"
            when = f" {status.st_size} {status.st_mtime_ns}" if kind == "file" else ""
            found[str(path.relative_to(folder))] = f"{kind} {status.st_mode:o}{when}"
    return found


@contextmanager
def _stream(how: str) -> Iterator[int | None]:
    """The descriptor of one of `cases.STREAMS`; None if it is kept or closed."""
    if how == "/dev/full":
        descriptor = os.open(how, os.O_WRONLY)
    elif how.startswith("a pipe"):
        reading, descriptor = os.pipe()
        if how == "a pipe without a reader":
            os.close(reading)
        else:
            _head(reading)
    else:
        yield None
        return
    yield descriptor
    os.close(descriptor)


def _head(reading: int) -> None:
    """Let `head -1` read from the pipe, and then end it."""
    subprocess.Popen(["head", "-1"], stdin=reading, stdout=subprocess.DEVNULL)
    os.close(reading)


class _Fresh(subprocess.Popen[str]):
    """A process whose output goes to files, as a fork's does."""

    files: tuple[IO[str], IO[str]]

    def communicate(self, *arguments: object, **named: object) -> tuple[str, str]:
        """Return what it wrote to stdout and to stderr."""
        self.wait()
        for file in self.files:
            file.seek(0)
        return self.files[0].read(), self.files[1].read()


def _fresh(
    case: Case, folder: Path, environment: dict[str, str | None], start: Start
) -> _Fresh | ForkedProcess:
    """Start the installed script; it is not watched."""

    def become() -> None:
        for number in start.closed:
            os.close(number)
        if start.umask is not None:
            os.umask(start.umask)

    files = tuple(
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        for _ in range(2)
    )
    process = _Fresh(
        [str(Path(sys.executable).with_name(case.command)), *case.words],
        cwd=folder,
        env={
            name: value
            for name, value in {**os.environ, **environment}.items()
            if value is not None
        },
        stdin=subprocess.DEVNULL,
        stdout=files[0] if start.stdout is None else start.stdout,
        stderr=files[1] if start.stderr is None else start.stderr,
        start_new_session=True,
        preexec_fn=become,
    )
    process.files = files  # type: ignore[assignment]
    return process


def _fill(outside: Path) -> None:
    """Write the canaries: what nothing may read into a report, change or remove."""
    (outside / "canary").write_text("canary\n")
    (outside / "canary.yaml").write_text("steps: 1\n")
    (outside / "deep" / "deeper").mkdir(parents=True)
    for name in ("canary", "deeper/canary.pt", "step_00000001.png"):
        (outside / "deep" / name).write_text("canary\n")


def _remove_all(folder: Path) -> None:
    """Remove a folder, even if its files and folders are read-only."""
    if folder.exists():
        shutil.rmtree(folder)

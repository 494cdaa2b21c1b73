"""A sweep as a whole: its jobs' states while they run, and what they come to."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from wgan_cli.commands.answering import complain
from wgan_cli.commands.composition import typeable
from wgan_cli.commands.jobs import Launcher, line
from wgan_cli.commands.workers import asking_workers_to_end
from wgan_cli.errors import DiskError, InterruptedRunError, PreemptedError, WganError
from wgan_cli.rundir import STATUS, RunFolder
from wgan_cli.training.interrupts import Terminated

_SECONDS = 0.5


def run_jobs(folder: Path, count: int, launcher: Launcher, launch: Callable[[], int]) -> int:
    """Let `launch` run a sweep's `count` jobs in its folder; returns the sweep's exit code.

    Raises `InterruptedRunError` or `PreemptedError` where a signal ended it.
    """
    asked: WganError | None = None
    with _watched(folder):
        try:
            if launcher is Launcher.JOBLIB:
                asked, code = _launched_beside(launch)
            else:
                code = launch()
        except KeyboardInterrupt:
            asked = InterruptedRunError("")
        except (SystemExit, Terminated):
            asked = PreemptedError("")
    if asked is not None:
        goes_on = " Jobs in the queue go on." if launcher is Launcher.SLURM else ""
        raise type(asked)(
            "The sweep was asked to stop; what runs is saved. Go on with it by the same command and"
            f" {typeable('hydra.sweep.dir', folder)}; wgan-report {shlex.quote(str(folder))} shows"
            f" what there is.{goes_on}"
        )
    # A job that another process keeps from its folder leaves no status of its own.
    return _come_to(folder, count) or min(code, 1)


def _launched_beside(launch: Callable[[], int]) -> tuple[WganError | None, int]:
    with asking_workers_to_end() as asked:
        try:
            code = launch()
        except Exception:
            # Of a worker that had no handler yet.
            if asked() is None:
                raise
            code = 1
        return asked(), code


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Inside, every change of a job's state is a line on stderr."""
    told: dict[Path, str] = {path: _state(path) for path in _jobs(folder)}
    over = threading.Event()

    def tell() -> None:
        for path in _jobs(folder):
            state = _state(path)
            if told.get(path) != state and state:
                told[path] = state
                tqdm.write(line(RunFolder(path), str(path.relative_to(folder))), file=sys.stderr)

    def watch() -> None:
        while not over.wait(_SECONDS):
            tell()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        tell()


def _come_to(folder: Path, count: int) -> int:
    """Print the ranked table and write the page; returns 1 where a job did not finish, else 0.

    Of `count` jobs some may have left nothing, where the disk was full.
    """
    # What it builds on is not needed before.
    from wgan_cli.report import Report, read_runs
    from wgan_cli.report.terminal import screen_width

    runs = read_runs([folder])
    report = Report(runs, title=f"The sweep in {folder}")
    print(f"\n{report.table(screen_width())}")
    missing = max(0, count - len(runs))
    if missing:
        print(f"and {missing} of which nothing could be written")
    failed = missing or not all(run.finished for run in runs)
    if not runs:
        return 1
    try:
        page = next(path for path in report.write(folder) if path.suffix == ".html")
    except DiskError as error:
        complain(f"wgan-train: {error}")
        return 1
    print(f"\nThe page: {page}")
    return 1 if failed else 0


def _jobs(folder: Path) -> list[Path]:
    found = [path.parent for path in (*folder.glob(f"*/{STATUS}"), *folder.glob(f"*/*/{STATUS}"))]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _state(path: Path) -> str:
    return str(RunFolder(path).read_status().get("state", ""))

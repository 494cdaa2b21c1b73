"""Run the jobs of a sweep, show their states, and print a report at the end."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from wgan_cli.commands.cli import print_error, print_text
from wgan_cli.commands.composition import typeable
from wgan_cli.commands.folders import DEPTH
from wgan_cli.commands.sweep_job import Launcher, record_killed, status_line
from wgan_cli.commands.sweep_workers import asking_workers_to_end
from wgan_cli.errors import ConfigError, DiskError, InterruptedRunError, PreemptedError, WganError
from wgan_cli.process_control import shell_words
from wgan_cli.run_folder import RunFolder
from wgan_cli.run_status import STATUS, read_status
from wgan_cli.stop_signals import Terminated
from wgan_cli.terminal_text import printable
from wgan_cli.validation import job_overrides

_SECONDS = 0.5
# The number of attempts to run the jobs with joblib if each attempt loses a worker process.
_STARTS = 3


def run_jobs(
    folder: Path, jobs: Sequence[Sequence[str]], launcher: Launcher, launch: Callable[[], int]
) -> int:
    """Run the jobs of a sweep by calling `launch`, and report on them; return the exit code.

    `jobs` holds the overrides of each job. If the process of a job is killed, this job has failed,
    and the other jobs continue. Raises `InterruptedRunError` or `PreemptedError` if a signal ended
    the sweep, and `ConfigError` if the launcher's settings are wrong.
    """
    asked: WganError | None = None
    with _watched(folder):
        try:
            if launcher is Launcher.JOBLIB:
                asked = _run_in_workers(folder, jobs, launch)
            else:
                lost = _launch(launch)
                if lost is not None:
                    _refuse_setting(folder, lost)
                    _wait_for_others(folder)
        except KeyboardInterrupt:
            asked = InterruptedRunError("")
        except (SystemExit, Terminated):
            asked = PreemptedError("")
    if asked is not None:
        goes_on = " Jobs in the queue go on." if launcher is Launcher.SLURM else ""
        raise type(asked)(
            "The sweep was asked to stop; what runs is saved. Go on with it by the same command and"
            f" {typeable('hydra.sweep.dir', folder)}; {shell_words(['wgan-report', str(folder)])}"
            f" shows the results so far.{goes_on}"
        )
    return _report(folder, jobs)


def _launch(launch: Callable[[], int]) -> Exception | None:
    """Call `launch`; return the launcher's error or None. Jobs record their errors themselves."""
    try:
        launch()
    except (WganError, OSError):
        raise
    except Exception as error:
        return error
    return None


def _run_in_workers(
    folder: Path, jobs: Sequence[Sequence[str]], launch: Callable[[], int]
) -> WganError | None:
    """Run the jobs with joblib; return the error for a stop signal, or None if no signal came.

    If a worker is killed, joblib also ends the other workers. All unfinished jobs are then started
    again.
    """
    _refuse_without_shared_memory()
    with asking_workers_to_end(folder) as asked:
        for _ in range(_STARTS):
            lost = _launch(launch)
            if lost is None or asked() is not None:
                break
            _refuse_setting(folder, lost)
            killed = [path for path in _job_folders(folder) if record_killed(RunFolder(path))]
            tqdm.write(
                "A process that ran jobs was lost; its jobs and those that have not begun"
                " start again.",
                file=sys.stderr,
            )
            if not killed and not _jobs_without_run(folder, jobs):
                break
        return asked()


def _refuse_without_shared_memory() -> None:
    """Raise `DiskError` if processes cannot share locks: joblib would use threads of this one."""
    try:
        multiprocessing.Lock()
    except (ImportError, OSError) as error:
        raise DiskError(
            f"hydra/launcher=joblib needs shared memory (/dev/shm), which cannot be used ({error})."
            " Free some space there, or leave the launcher out: the jobs then run one by one."
        ) from None


def _refuse_setting(folder: Path, error: Exception) -> None:
    """Raise `ConfigError` if no job has begun, because then the launcher's settings are wrong."""
    if not _job_folders(folder):
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"hydra.launcher: {reason}.") from None


def _wait_for_others(folder: Path) -> None:
    """Wait for the jobs that still run, because the launcher stops waiting if one job is killed."""
    while any(
        read_status(path).running and not record_killed(RunFolder(path))
        for path in _job_folders(folder)
    ):
        time.sleep(_SECONDS)


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Within the context, print a line on stderr whenever a job's state changes."""
    shown = {path: read_status(path).state for path in _job_folders(folder)}
    over = threading.Event()

    def show() -> None:
        for path in _job_folders(folder):
            state = read_status(path).state
            if state and shown.get(path) != state:
                shown[path] = state
                name = str(path.relative_to(folder))
                tqdm.write(printable(status_line(RunFolder(path), name)), file=sys.stderr)

    def watch() -> None:
        while not over.wait(_SECONDS):
            show()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        show()


def _report(folder: Path, jobs: Sequence[Sequence[str]]) -> int:
    """Print the ranked table and write the page; return the exit code.

    The exit code is 1 if a job did not finish or the page cannot be written, else 0. The table
    also shows runs of earlier sweeps in this folder, but they do not affect the exit code.
    """
    from wgan_cli.report import Report, read_runs
    from wgan_cli.report.writers.tables import screen_width

    runs = read_runs([folder])
    if runs:
        report = Report(runs, title=f"The sweep in {folder}")
        print_text(f"\n{report.table(screen_width())}")
    missing = _jobs_without_run(folder, jobs)
    for overrides in missing:
        print_text(f"no run was begun or written for: {' '.join(overrides) or '(defaults)'}")
    keys = {_key(overrides) for overrides in jobs}
    unfinished = [run for run in runs if not run.finished and _key(run.overrides) in keys]
    if not runs:
        return 1
    try:
        page = next(path for path in report.write(folder) if path.suffix == ".html")
    except DiskError as error:
        print_error(f"wgan-train: {error}")
        return 1
    print_text(f"\nThe page: {page}")
    return 1 if missing or unfinished else 0


def _jobs_without_run(folder: Path, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of the jobs that have no run in the folder, without duplicates."""
    present = {_key(RunFolder(path).read_overrides()) for path in _job_folders(folder)}
    wanted = {_key(overrides): job_overrides(overrides) for overrides in jobs}
    return [overrides for key, overrides in wanted.items() if key not in present]


def _key(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides of a job in sorted order. Equal jobs have equal keys."""
    return tuple(sorted(job_overrides(overrides)))


def _job_folders(folder: Path) -> list[Path]:
    # A link may lead to a run that is not of this sweep, whose files stay as they are.
    root, depths = folder.resolve(), ["/".join("*" * depth) for depth in range(1, DEPTH + 1)]
    found = [path.parent for depth in depths for path in folder.glob(f"{depth}/{STATUS}")]
    folders = [path for path in found if path.resolve().is_relative_to(root)]
    return sorted(folders, key=lambda path: (len(path.name), path.name))

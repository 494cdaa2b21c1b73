"""A sweep as a whole: its jobs' states while they run, and what they come to."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from wgan_cli.commands.cli import complain
from wgan_cli.commands.composition import typeable
from wgan_cli.commands.sweep_job import Launcher, line, record_cut, typed
from wgan_cli.commands.sweep_workers import asking_workers_to_end
from wgan_cli.errors import ConfigError, DiskError, InterruptedRunError, PreemptedError, WganError
from wgan_cli.run_folder import STATUS, RunFolder
from wgan_cli.stop_signals import Terminated

_SECONDS = 0.5
# How often joblib's jobs are begun where a worker is lost each time.
_STARTS = 3


def run_jobs(
    folder: Path, jobs: Sequence[Sequence[str]], launcher: Launcher, launch: Callable[[], int]
) -> int:
    """Let `launch` run a sweep's jobs, of these words, in its folder; returns the exit code.

    Where a job's process is lost, it is a failed job, and the others go on. Raises
    `InterruptedRunError` or `PreemptedError` where a signal ended the sweep, `ConfigError` where
    the launcher cannot be used as it is set.
    """
    asked: WganError | None = None
    with _watched(folder):
        try:
            if launcher is Launcher.JOBLIB:
                asked = _beside(folder, jobs, launch)
            else:
                lost = _launched(launch)
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
            f" {typeable('hydra.sweep.dir', folder)}; wgan-report {shlex.quote(str(folder))} shows"
            f" what there is.{goes_on}"
        )
    return _come_to(folder, jobs)


def _launched(launch: Callable[[], int]) -> Exception | None:
    """What the launcher raised, which is never a job's own error: those are in their folders."""
    try:
        launch()
    except (WganError, OSError):
        raise
    except Exception as error:
        return error
    return None


def _beside(
    folder: Path, jobs: Sequence[Sequence[str]], launch: Callable[[], int]
) -> WganError | None:
    """Joblib's jobs: where a worker is lost it ends the others too, which then begin again."""
    with asking_workers_to_end(folder) as asked:
        for _ in range(_STARTS):
            lost = _launched(launch)
            if lost is None or asked() is not None:
                break
            _refuse_setting(folder, lost)
            cut = [path for path in _jobs(folder) if record_cut(RunFolder(path))]
            tqdm.write(
                "A process that ran jobs was lost; what it cut short and what has not begun"
                " starts again.",
                file=sys.stderr,
            )
            if not cut and not _without_run(folder, jobs):
                break
        return asked()


def _refuse_setting(folder: Path, error: Exception) -> None:
    """A launcher that fails before any job begins was set wrongly."""
    if not _jobs(folder):
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(f"hydra.launcher: {reason}.") from None


def _wait_for_others(folder: Path) -> None:
    """A launcher that waits for its jobs in turn gives up at the first that is lost."""
    while any(
        run.read_status().get("state") == "running" and not record_cut(run)
        for run in map(RunFolder, _jobs(folder))
    ):
        time.sleep(_SECONDS)


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


def _come_to(folder: Path, jobs: Sequence[Sequence[str]]) -> int:
    """Print the ranked table and write the page; returns 1 where a job did not finish, else 0.

    Runs of earlier starts with other values are shown, and do not count.
    """
    # What it builds on is not needed before.
    from wgan_cli.report import Report, read_runs
    from wgan_cli.report.writers.terminal import screen_width

    runs = read_runs([folder])
    if runs:
        report = Report(runs, title=f"The sweep in {folder}")
        print(f"\n{report.table(screen_width())}")
    missing = _without_run(folder, jobs)
    for words in missing:
        print(f"no run could be begun or written of: {' '.join(words) or '(defaults)'}")
    own = {tuple(sorted(typed(words))) for words in jobs}
    unfinished = [
        run for run in runs if not run.finished and tuple(sorted(typed(run.overrides))) in own
    ]
    if not runs:
        return 1
    try:
        page = next(path for path in report.write(folder) if path.suffix == ".html")
    except DiskError as error:
        complain(f"wgan-train: {error}")
        return 1
    print(f"\nThe page: {page}")
    return 1 if missing or unfinished else 0


def _without_run(folder: Path, jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """The words of those jobs of which no run is in the folder, each once."""
    there = {tuple(sorted(typed(RunFolder(path).read_overrides()))) for path in _jobs(folder)}
    wanted = {tuple(sorted(typed(words))): typed(words) for words in jobs}
    return [words for key, words in wanted.items() if key not in there]


def _jobs(folder: Path) -> list[Path]:
    depths = ("*", "*/*", "*/*/*")
    found = [path.parent for depth in depths for path in folder.glob(f"{depth}/{STATUS}")]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def _state(path: Path) -> str:
    return str(RunFolder(path).read_status().get("state", ""))

"""The launcher, folder and status of one job of a sweep, and its line on the terminal."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import replace
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from wgan_cli.commands.logs import file_log, jobs
from wgan_cli.errors import CheckpointError, DiskError, FolderInUseError, WganError
from wgan_cli.files import LogFile
from wgan_cli.guard import inside
from wgan_cli.locks import held, locked
from wgan_cli.run_folder import LOCK, LOG, RunFolder, make_folder, remove_if_empty
from wgan_cli.run_status import now, read_status, write_status
from wgan_cli.validation import job_overrides


class Launcher(enum.Enum):
    """Hydra's launchers by the name of their class. `OTHER` stands for all launchers not listed."""

    JOBLIB = "JoblibLauncher"
    LOCAL = "LocalLauncher"
    SLURM = "SlurmLauncher"
    OTHER = "other"

    @classmethod
    def of(cls, hydra: Any) -> Launcher:
        """Return the launcher that Hydra's config node `hydra` names."""
        name = str(hydra.launcher._target_).rpartition(".")[2]
        return next((launcher for launcher in cls if launcher.value == name), cls.OTHER)


def sweep_of(hydra: Any, job: Path) -> Path:
    """Return the folder of the sweep with the job folder `job`; `hydra` is Hydra's config node.

    Raises `CheckpointError` if a link leads from the sweep's folder to the job's elsewhere.
    """
    # With hydra.job.chdir, the current folder is the job's.
    folder = Path(hydra.runtime.cwd, hydra.sweep.dir)
    inside(folder, os.path.relpath(job, folder))
    return folder


def claim_job_folder(path: Path, overrides: Sequence[str]) -> Path:
    """Reserve and return a job's folder: the one with the same overrides if any, else a free one.

    A lock ensures that only one job at a time chooses a folder. Raises `FolderInUseError` if the
    user chose the folder's name (it is not a number) and the folder holds another job, and
    `CheckpointError` if a link leads out of the sweep's folder.
    """
    wanted = sorted(job_overrides(overrides))
    # Without locks, each job still warns when it claims its run folder.
    risk = "Do not start a second sweep there."
    with held(inside(path.parent, ".jobs.lock"), risk=risk):
        for other in map(RunFolder, filter(Path.is_dir, path.parent.iterdir())):
            if other.taken() and sorted(other.read_overrides()) == wanted:
                inside(path.parent, other.path.name)
                if other.path != path:
                    remove_if_empty(path)
                return other.path
        number = int(path.name) if path.name.isdigit() else 0
        while path.name.isdigit() and RunFolder(path).taken():
            number += 1
            path = path.with_name(str(number))
        folder = RunFolder(path)
        if folder.taken():
            raise FolderInUseError(
                f"{path} holds another job, of {' '.join(folder.read_overrides())}: choose another"
                " hydra.sweep.dir or hydra.sweep.subdir."
            )
        make_folder(inside(path.parent, path.name))
        folder.write_overrides(job_overrides(overrides))
    return path


def record_failure(
    folder: RunFolder, overrides: Sequence[str], failure: Exception, early: MemoryHandler
) -> None:
    """Write `status.json` for a failed job, and `train.log` if `early` still holds messages.

    If the files cannot be written, log the failure on stderr instead.
    """
    # In this case another process uses the folder, so do not change its files.
    if isinstance(failure, FolderInUseError):
        jobs.error("wgan-train: %s", failure)
        return
    try:
        inside(folder.path.parent, folder.path.name)
        make_folder(folder.path)
        folder.refuse_links()
        if early.buffer:
            with file_log(LogFile(folder.path / LOG), early):
                pass
        folder.write_overrides(job_overrides(overrides))
        before = read_status(folder.path)
        started = replace(before, started=before.started or now(), seconds=before.seconds or 0.0)
        write_status(folder.path, started.failed(failure))
    except (CheckpointError, DiskError):
        jobs.error("wgan-train: %s", failure)


def record_killed(folder: RunFolder) -> bool:
    """Return whether a job's process was killed. If so, record this in `status.json`.

    Raises `CheckpointError` if a link leads out of the job's folder.
    """
    if not read_status(folder.path).running:
        return False
    folder.refuse_links()
    if (lock := locked(folder.path / LOCK)) is None:
        return False
    with lock:
        error = WganError("Its process was killed, as happens where memory runs out.")
        write_status(folder.path, read_status(folder.path).failed(error))
    return True


def status_line(folder: RunFolder, name: str) -> str:
    """Return a job's line on the terminal: name, state, overrides, result, time and message."""
    status = read_status(folder.path)
    state = status.state or "waiting"
    overrides = " ".join(folder.read_overrides()) or "(defaults)"
    distance = status.final.get("wasserstein/exact") if status.finished else None
    result = "" if distance is None else f"  exact W1 {distance:.4g}"
    time = "" if state in ("waiting", "running") else f"  {status.seconds or 0:.0f} s"
    message = f"  {status.message}" if status.message else ""
    return f"job {name:>3}  {state:<11}  {overrides}{result}{time}{message}"

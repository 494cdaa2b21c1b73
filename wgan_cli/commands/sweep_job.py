"""One job of a sweep: its launcher, its folder, and what is said and recorded of it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from wgan_cli.commands.logs import file_log, jobs
from wgan_cli.errors import DiskError, FolderInUseError, WganError
from wgan_cli.locking import held, locked
from wgan_cli.run_folder import LOG, OVERRIDES, RunFolder, make_folder, now, remove_if_empty
from wgan_cli.training.callbacks.log import LogFile

_NOT_BEGUN: dict[str, Any] = {"step": 0, "steps": None, "final": {}, "seconds": 0.0}


class Launcher(enum.Enum):
    """What starts a sweep's jobs: this process one by one, its workers, submitit or another."""

    BASIC = "BasicLauncher"
    JOBLIB = "JoblibLauncher"
    LOCAL = "LocalLauncher"
    SLURM = "SlurmLauncher"
    OTHER = "other"

    @classmethod
    def of(cls, hydra: Any) -> Launcher:
        """The launcher that Hydra's own node names; by the class it names."""
        name = str(hydra.launcher._target_).rpartition(".")[2]
        return next((launcher for launcher in cls if launcher.value == name), cls.OTHER)


def typed(overrides: Sequence[str]) -> list[str]:
    """What says what is trained: all that was typed but where to go on, and Hydra's own words."""
    keys = [word.partition("=")[0].lstrip("+~") for word in overrides]
    own = ("hydra.", "hydra/")
    return [
        word
        for word, key in zip(overrides, keys, strict=True)
        if key != "resume" and not key.startswith(own)
    ]


def take_folder(path: Path, overrides: Sequence[str]) -> Path:
    """The folder of a sweep's job: the one that holds these overrides, else a free one, marked.

    Jobs that start in one instant take theirs one after the other. Raises `FolderInUseError` where
    the sweep's folders have names of their own and this one holds another job.
    """
    wanted = sorted(typed(overrides))
    with held(path.parent / ".jobs.lock"):
        for other in (RunFolder(other) for other in path.parent.iterdir() if other.is_dir()):
            if other.taken() and sorted(other.read_overrides()) == wanted:
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
        make_folder(path)
        folder.write_overrides(typed(overrides))
    return path


def give_back_folder(folder: RunFolder) -> None:
    """Where no run has begun in a job's folder, as after Ctrl-C, it is free again."""
    if not folder.holds_run():
        (folder.path / OVERRIDES).unlink(missing_ok=True)


def record_failure(
    folder: RunFolder, overrides: Sequence[str], failure: Exception, early: MemoryHandler
) -> None:
    """`status.json` of a job that failed, and `train.log` where it had not begun.

    `early` keeps what the job has said until then. What cannot be written is said on stderr.
    """
    # A folder in use is another process's to write.
    if isinstance(failure, FolderInUseError):
        jobs.error("wgan-train: %s", failure)
        return
    if isinstance(failure, WganError):
        state, exit_code, message = failure.state, failure.exit_code, str(failure)
    else:
        state, exit_code, message = "failed", 1, f"{type(failure).__name__}: {failure}"
    outcome = {"state": state, "exit_code": exit_code, "message": message, "ended": now()}
    try:
        make_folder(folder.path)
        if early.buffer:
            with file_log(LogFile(folder.path / LOG), early):
                pass
        folder.write_overrides(typed(overrides))
        folder.write_status({**_NOT_BEGUN, "started": now(), **folder.read_status(), **outcome})
    except DiskError:
        jobs.error("wgan-train: %s", failure)


def record_cut(folder: RunFolder) -> bool:
    """Whether a job's process ended without a word; `status.json` then says so."""
    if folder.read_status().get("state") != "running":
        return False
    lock = locked(folder.path / ".lock")
    if lock is None:
        return False
    with lock:
        message = "Its process was killed, as it may be where memory runs out."
        outcome = {"state": "failed", "exit_code": 1, "message": message, "ended": now()}
        folder.write_status({**folder.read_status(), **outcome})
    return True


def line(folder: RunFolder, name: str) -> str:
    """A job with its state, as it stands in its folder."""
    status = folder.read_status()
    state = status.get("state", "waiting")
    words = " ".join(folder.read_overrides()) or "(defaults)"
    distance = status.get("final", {}).get("wasserstein/exact")
    result = f"  exact W1 {distance:.4g}" if distance is not None and state == "finished" else ""
    took = f"  {status['seconds']:.0f} s" if state not in ("waiting", "running") else ""
    message = f"  {status['message']}" if status.get("message") else ""
    return f"job {name:>3}  {state:<11}  {words}{result}{took}{message}"

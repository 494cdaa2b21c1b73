"""Claim and lock a run's folder; read and write the small files in it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from wgan_cli import untrusted_files
from wgan_cli.cores import usable_cores
from wgan_cli.errors import CheckpointError, ConfigError, FolderInUseError
from wgan_cli.files import RecordFile, disk_error, sync, write_atomically
from wgan_cli.guard import inside
from wgan_cli.locks import locked, remove_locked
from wgan_cli.operating_system import remove
from wgan_cli.process_control import shell_words
from wgan_cli.run_status import STATUS
from wgan_cli.terminal_text import printable
from wgan_cli.untrusted_files import MOST_METRICS, reason
from wgan_cli.waiting.policy import wait_policy

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
METRICS = "metrics.jsonl"
ENVIRONMENT = "environment.json"
LOG, LOCK = "train.log", ".lock"
_LIBRARIES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "tensorboard")
_SMALL = (CONFIG, OVERRIDES, ENVIRONMENT, STATUS, METRICS)
# Python's numbers in JSON, without its booleans. A float holds all steps below 2**53 exactly.
_NUMBERS, _MOST_STEPS = (int, float), 2**53
_FOLDERS = ("checkpoints", "samples", "tensorboard", "profile")


class RunFolder:
    """The folder of one run. `claim` creates and locks it; `release` or a process exit unlocks it.

    Inside are the folders `checkpoints`, `samples` (pictures) and `tensorboard` (event files).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self._lock: TextIO | None = None

    def holds_run(self) -> bool:
        """Return whether the folder holds a run."""
        return (self.path / CONFIG).exists() or (self.path / STATUS).exists()

    def taken(self) -> bool:
        """Return whether the folder holds a run or is reserved for a sweep's job."""
        return self.holds_run() or (self.path / OVERRIDES).exists()

    def claim(self, *, resuming: bool) -> None:
        """Create and lock the folder, and remove half-written files of a killed process.

        Raises `FolderInUseError` if another process uses the folder, or if the folder holds a run
        and `resuming` is false. Raises `DiskError` if the folder cannot be created, and
        `CheckpointError` if a file or folder to write is a link that leads out of it.
        """
        make_folder(self.path)
        self.refuse_links()
        lock = locked(self.path / LOCK, risk="Do not start a second command that trains there.")
        if lock is None:
            raise FolderInUseError(
                f"Another process is training in {self.path}. Wait for it, or choose another"
                " hydra.run.dir."
            )
        if not resuming and self.holds_run():
            lock.close()
            raise FolderInUseError(taken_message(self.path))
        self._lock = lock
        for folder in (self.checkpoints, self.samples):
            make_folder(folder)
        # Remove only the trainer's temporary files. wgan-eval takes no lock and may still use its
        # own.
        for name in _SMALL:
            _remove(self.path.glob(f".{name}.*tmp"))
        _remove(self.samples.glob(".step_*.tmp"))
        _remove(self.checkpoints.glob("*step_*.tmp"))

    def abandon(self) -> None:
        """Remove the files of a run that has not begun, so that the folder can be used again."""
        run_began = (self.path / STATUS).exists() or any(self.checkpoints.glob("step_*.pt"))
        if self._lock is None or run_began:
            return
        _remove(self.path / name for name in (*_SMALL, LOG))
        _remove(self.tensorboard.glob("events.*"))
        for folder in (self.checkpoints, self.samples, self.tensorboard):
            with suppress(OSError):
                folder.rmdir()
        # Remove the lock file last: another process can then create it and own the folder.
        remove_locked(self.path / LOCK, self._lock)
        self._lock = None

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write all settings to `config.yaml`. The run can be repeated from this file."""
        flags = ["--config-dir", str(self.path), "--config-name", "config"]
        # A line break in the folder's name would end the comment.
        command = printable(shell_words(["wgan-train", *flags]))
        text = OmegaConf.to_yaml(OmegaConf.create(config))
        self._replace(CONFIG, f"# Every setting of this run. Repeat it: {command}\n{text}")

    def write_overrides(self, overrides: Sequence[str]) -> None:
        """Write the overrides of the run's first start and of all resumes to `overrides.yaml`."""
        self._replace(OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))

    def read_overrides(self) -> list[str]:
        """Return the overrides in `overrides.yaml`, or [] if the file is missing or broken."""
        try:
            overrides = untrusted_files.read_yaml(self.path / OVERRIDES)
        except (OSError, ValueError):
            # A user may have edited the file and broken it. No run depends on it.
            return []
        return [str(override) for override in overrides] if isinstance(overrides, list) else []

    def write_environment(self, **more: Any) -> None:
        """Write this process's command line, machine, package versions and `more` as JSON.

        This replaces the file of any earlier process. Raises `DiskError`.
        """
        environment = {
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "usable_cores": usable_cores(),
            "wait_policy": wait_policy(),
            "packages": {package: _version(package) for package in ("wgan-train", *_LIBRARIES)},
            **more,
        }
        self._replace(ENVIRONMENT, json.dumps(environment, indent=2) + "\n")

    def read_command(self) -> list[str]:
        """Return the command line of the last process that trained here, [] if it is unknown."""
        try:
            content = untrusted_files.read_json(self.path / ENVIRONMENT)
        except (OSError, ValueError):
            return []
        command = content.get("command") if isinstance(content, dict) else None
        return [str(word) for word in command] if isinstance(command, list) else []

    def append_metrics(self, step: int, values: dict[str, float]) -> None:
        """Append a line with the step and its values to `metrics.jsonl`."""
        with RecordFile(self.path / METRICS) as file:
            file.write(json.dumps({"step": step, **values}).encode() + b"\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """Return the lines of `metrics.jsonl` as dicts, in order; skip broken lines.

        Raises `CheckpointError` if the file cannot be read.
        """
        path = self.path / METRICS
        try:
            text = untrusted_files.read_text(path, MOST_METRICS, errors="replace")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {reason(error)}.") from None
        return [point for point in map(_point, text.splitlines()) if point is not None]

    def forget_metrics_after(self, step: int) -> None:
        """Remove the lines after `step`, because a run that resumes there writes them again."""
        kept = [json.dumps(point) + "\n" for point in self.read_metrics() if point["step"] <= step]
        self._replace(METRICS, "".join(kept))

    def sync(self) -> None:
        """Wait until the metrics and the event files are on the disk. Raises `DiskError`."""
        try:
            for path in (self.path / METRICS, *self.tensorboard.glob("events.*")):
                if path.is_file():
                    sync(path)
        except OSError as error:
            raise disk_error(error, path) from None

    def _replace(self, name: str, text: str) -> None:
        write_atomically(inside(self.path, name), text.encode())

    def refuse_links(self) -> None:
        """Raise `CheckpointError` if a file or folder of a run is a link that leads out of it."""
        for name in (LOCK, LOG, *_SMALL):
            inside(self.path, name)
        for name in _FOLDERS:
            folder = inside(self.path, name)
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_symlink():
                    inside(self.path, name, path.name)


def _point(line: str) -> dict[str, float] | None:
    """Parse a line of `metrics.jsonl`; return None if it is broken.

    The result maps tags to floats, which may be NaN or infinite, and "step" to an integer.
    """
    try:
        point = untrusted_files.parse_json(line)
        step, tags = point["step"], "".join(point)
        # JSON allows lone surrogates and integers of any size; no event file or float does.
        tags.encode()
        numbers = {tag: float(value) for tag, value in point.items() if type(value) in _NUMBERS}
    except (ValueError, LookupError, TypeError, OverflowError):
        return None
    if len(numbers) < len(point) or type(step) is not int or not 0 <= step < _MOST_STEPS:
        return None
    return {**numbers, "step": step}


def taken_message(path: Path) -> str:
    """Return the message that refuses a new run in a folder that already holds one."""
    return (
        f"{path} holds a run already. Go on with it by resume={path}, or choose another"
        " hydra.run.dir."
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return a saved config as plain dicts.

    Raises `CheckpointError` if there is no file, `ConfigError` if it cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is no run folder: it holds no {path.name}.")
    config = read_settings(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds no settings.")
    return {str(key): value for key, value in config.items()}


def read_settings(path: Path) -> Any:
    """Return the content of a YAML file. Raises `ConfigError` if it cannot be read."""
    try:
        return untrusted_files.read_yaml(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}.") from None


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents. Raises `DiskError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path, done="made") from None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        remove(path)


def remove_if_empty(path: Path) -> None:
    """Remove a folder if it is empty, then its empty parents inside the current folder."""
    path, current = path.absolute(), Path.cwd()
    try:
        path.rmdir()
        while current in path.parent.parents:
            path = path.parent
            path.rmdir()
    except OSError:
        return

"""A run's folder: claiming it, locking it, and reading and writing its small files."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from wgan_cli.errors import CheckpointError, ConfigError, DiskError, FolderInUseError
from wgan_cli.files import (
    RecordFile,
    disk_error,
    overwrite_in_place,
    refuse_link,
    sync,
    write_atomically,
)
from wgan_cli.locking import locked, unheld

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
STATUS = "status.json"
METRICS = "metrics.jsonl"
LOG, LOCK = "train.log", ".lock"
ENVIRONMENT = "environment.json"
_SMALL = (CONFIG, OVERRIDES, ENVIRONMENT, STATUS, METRICS)
_PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "tensorboard")


class RunFolder:
    """One run's folder. Made by `claim`, which locks it until `release` or the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Where the sample pictures are."""
        return self.path / "samples"

    @property
    def tensorboard(self) -> Path:
        """Where the event files are."""
        return self.path / "tensorboard"

    def holds_run(self) -> bool:
        """Whether a run has been written here."""
        return (self.path / CONFIG).exists() or (self.path / STATUS).exists()

    def taken(self) -> bool:
        """Whether a run is here, or a sweep's job has put its overrides here to come."""
        return self.holds_run() or (self.path / OVERRIDES).exists()

    def claim(self, *, resuming: bool) -> None:
        """Make the folder and lock it.

        What a killed process left half written is removed. Raises `FolderInUseError` when another
        process is writing here, or when a run is here and this is not a resume; `DiskError` when
        the folder cannot be made; `CheckpointError` where a file would be written elsewhere.
        """
        make_folder(self.path)
        self._refuse_links()
        lock = locked(self.path / LOCK)
        if lock is None:
            raise FolderInUseError(
                f"Another process is training in {self.path}. Wait for it, or choose another"
                " hydra.run.dir."
            )
        if not resuming and self.holds_run():
            lock.close()
            raise FolderInUseError(taken_message(self.path))
        self._lock = lock
        for folder in (self.checkpoints, self.samples, self.tensorboard):
            make_folder(folder)
        self._remove_leftovers()

    def left(self) -> bool:
        """Whether its lock is there and no process has it; False where that cannot be told."""
        return unheld(self.path / LOCK)

    def abandon(self) -> None:
        """Where no run has begun, remove what was written for it: the folder is free again."""
        begun = (self.path / STATUS).exists() or any(self.checkpoints.glob("step_*.pt"))
        if self._lock is None or begun:
            return
        _remove(self.path / name for name in (*_SMALL, LOG))
        _remove(self.tensorboard.glob("events.*"))
        for folder in (self.checkpoints, self.samples, self.tensorboard):
            with suppress(OSError):
                folder.rmdir()
        # Last: whoever makes it anew owns the folder.
        _remove([self.path / LOCK])

    def release(self) -> None:
        """Let another process write here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_config(self, config: dict[str, Any]) -> None:
        """`config.yaml`: every setting filled; feeding it back gives the same run."""
        again = f"wgan-train --config-dir {self.path} --config-name config"
        text = OmegaConf.to_yaml(OmegaConf.create(config))
        self._replace(CONFIG, f"# Every setting of this run. Repeat it: {again}\n{text}")

    def read_config(self) -> dict[str, Any]:
        """`config.yaml` as plain dicts."""
        return read_config(self.path / CONFIG)

    def write_overrides(self, overrides: Sequence[str]) -> None:
        """`overrides.yaml`: what was typed, a resume's words after the first start's."""
        self._replace(OVERRIDES, OmegaConf.to_yaml(OmegaConf.create(list(overrides))))

    def read_overrides(self) -> list[str]:
        """What was typed, or an empty list."""
        try:
            typed = OmegaConf.to_container(OmegaConf.load(self.path / OVERRIDES))
        except Exception:
            # None, or one that an editor broke: nothing is trained by it.
            return []
        return [str(word) for word in typed] if isinstance(typed, list) else []

    def write_environment(self, **more: Any) -> None:
        """`environment.json`: versions, machine and command line."""
        environment = {
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "packages": {name: _version(name) for name in ("wgan-train", *_PACKAGES)},
            **more,
        }
        self._replace(ENVIRONMENT, json.dumps(environment, indent=2) + "\n")

    def write_status(self, status: dict[str, Any]) -> None:
        """`status.json`, replaced atomically.

        How a run ended is said wherever a byte can be written: where the disk has no room for a
        second file, over the first one.
        """
        ended = status.get("exit_code") is not None
        try:
            self._replace(STATUS, json.dumps(status, indent=2) + "\n", durable=ended)
        except DiskError:
            short = json.dumps(status).encode() + b"\n"
            if not (ended and overwrite_in_place(self.path / STATUS, short)):
                raise

    def read_status(self) -> dict[str, Any]:
        """`status.json`, or an empty dict where there is none."""
        try:
            status = json.loads((self.path / STATUS).read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_evaluation(self, name: str, content: dict[str, Any]) -> None:
        """A file of `wgan-eval`'s, replaced atomically."""
        refuse_link(self.path / name)
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        self._replace(name, text, durable=False)

    def append_metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of `metrics.jsonl`."""
        with RecordFile(self.path / METRICS) as file:
            file.write(json.dumps({"step": step, **values}).encode() + b"\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl`, in order, without any that a kill or an editor broke."""
        path = self.path / METRICS
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [point for point in map(_point, lines) if point is not None]

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines after `step`, which a resume from there writes again."""
        kept = [json.dumps(point) + "\n" for point in self.read_metrics() if point["step"] <= step]
        self._replace(METRICS, "".join(kept))

    def sync(self) -> None:
        """What a checkpoint stands for outlasts a power failure with it. Raises `DiskError`."""
        try:
            for path in (self.path / METRICS, *self.tensorboard.glob("events.*")):
                if path.is_file():
                    sync(path)
        except OSError as error:
            raise disk_error(error, path) from None

    def _replace(self, name: str, text: str, *, durable: bool = True) -> None:
        write_atomically(self.path / name, text.encode(), durable=durable)

    def _refuse_links(self) -> None:
        for name in (LOCK, LOG, CONFIG, OVERRIDES, ENVIRONMENT, METRICS, STATUS):
            refuse_link(self.path / name)
        for folder in (self.checkpoints, self.samples, self.tensorboard):
            refuse_link(folder)
            for path in folder.glob("step_*"):
                refuse_link(path)

    def _remove_leftovers(self) -> None:
        """Temporary files of the trainer's; wgan-eval and wgan-sample write without the lock."""
        for name in _SMALL:
            _remove(self.path.glob(f".{name}.*tmp"))
        _remove(self.samples.glob(".step_*.tmp"))
        for pattern in (".step_*.tmp", "step_*.tmp"):
            _remove(self.checkpoints.glob(pattern))


def _point(line: str) -> dict[str, float] | None:
    """A line of `metrics.jsonl`, if it is one."""
    try:
        point = json.loads(line)
    except ValueError:
        return None
    sound = isinstance(point, dict) and isinstance(point.get("step"), int)
    if not sound or not all(isinstance(value, int | float) for value in point.values()):
        return None
    return point


def taken_message(path: Path) -> str:
    """What to do about a folder that holds a run."""
    return (
        f"{path} holds a run already. Go on with it by resume={path}, or choose another"
        " hydra.run.dir."
    )


def read_config(path: Path) -> dict[str, Any]:
    """A saved config as plain dicts.

    Raises `CheckpointError` where there is none, `ConfigError` where it is not one.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is no run folder: it holds no {path.name}.")
    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds no settings.")
    return {str(key): value for key, value in config.items()}


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises `DiskError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, path, done="made") from None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def remove_if_empty(path: Path) -> None:
    """Remove an empty folder, and those above it that this empties within the current one."""
    path, here = path.absolute(), Path.cwd()
    try:
        path.rmdir()
        while here in path.parent.parents:
            path = path.parent
            path.rmdir()
    except OSError:
        return


def now() -> str:
    """The time as status files give it, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

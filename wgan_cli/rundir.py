"""A run's folder: claiming it, locking it, and reading and writing its small files."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from wgan_cli.errors import CheckpointError, ConfigError, DiskError, FolderInUseError
from wgan_cli.migration import migrated

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
STATUS = "status.json"
METRICS = "metrics.jsonl"
LOG = "train.log"
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

    def claim(self, *, resuming: bool) -> None:
        """Make the folder and lock it.

        Raises `FolderInUseError` when another process is writing here, or when a run is here and
        this is not a resume; `DiskError` when the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise DiskError(
                f"The run folder {self.path} cannot be made: {error.strerror}."
            ) from None
        try:
            # The kernel drops the lock with the process, so a dead run never holds it.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise FolderInUseError(
                f"Another process is training in {self.path}. Wait for it, or choose another"
                " hydra.run.dir."
            ) from None
        if not resuming and self.holds_run():
            lock.close()
            raise FolderInUseError(taken_message(self.path))
        self._lock = lock
        for folder in (self.checkpoints, self.samples, self.tensorboard):
            folder.mkdir(exist_ok=True)

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
        path = self.path / OVERRIDES
        if not path.exists():
            return []
        return [str(word) for word in OmegaConf.load(path)]

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
        self._replace("environment.json", json.dumps(environment, indent=2) + "\n")

    def write_status(self, status: dict[str, Any]) -> None:
        """`status.json`, replaced atomically."""
        self._replace(STATUS, json.dumps(status, indent=2) + "\n")

    def read_status(self) -> dict[str, Any]:
        """`status.json`, or an empty dict where there is none."""
        try:
            status = json.loads((self.path / STATUS).read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def write_evaluation(self, name: str, content: dict[str, Any]) -> None:
        """A file of `wgan-eval`'s, replaced atomically."""
        self._replace(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def append_metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of `metrics.jsonl`."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl`, in order, without any that a kill or an editor broke."""
        path = self.path / METRICS
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [point for point in map(_point, lines) if point is not None]

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines after `step`, which a resume from there writes again."""
        kept = [json.dumps(point) + "\n" for point in self.read_metrics() if point["step"] <= step]
        self._replace(METRICS, "".join(kept))

    def _replace(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(self.path / name)


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
    """A saved config as plain dicts, in today's words whichever version saved it.

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
    return migrated({str(key): value for key, value in config.items()})


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises `DiskError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"The folder {path} cannot be made: {error.strerror}.") from None


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

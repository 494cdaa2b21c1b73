"""Run folders as a report sees them: read as far as they can be, whatever state they are in."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wgan_cli.environment import read_command
from wgan_cli.report.settings import as_value, flat_settings, read_yaml
from wgan_cli.run_folder import CONFIG, RunFolder
from wgan_cli.run_status import STATUS, read_status

RUNNING, CUT_OFF = "running", "cut off"
# States that no resume mends by itself: these rows go last and enter no mean or curve.
LOST = ("diverged", "failed")
# What a run keeps in its own folder, where no other run lies.
_INNER = ("checkpoints", "samples", "tensorboard", "evaluation", "profile")
# Primary configs by the names that wgan-train hands on to Hydra: its own, and a run's saved one.
_PRIMARY, _SAVED = "train", "_saved_config"

T = TypeVar("T")


@dataclass
class Run:
    """One run: its folder, its `name` in tables, and what its files say.

    `state`, `message`, `step`, `steps`, `seconds` and `final` (tag to finite number) are
    `status.json`'s, but that a running run whose process is gone is cut off. `config` is empty
    where `config.yaml` cannot be read, `words` what was typed, `argv` the command line of the
    process.
    """

    folder: Path
    name: str
    state: str = "unknown"
    message: str = ""
    step: int = 0
    steps: int | None = None
    seconds: float | None = None
    ended: str = ""
    final: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether all its steps are done; no other run enters a mean."""
        return self.state == "finished"

    @property
    def lost(self) -> bool:
        """Whether it diverged or failed."""
        return self.state in LOST

    @property
    def typed(self) -> dict[str, str]:
        """Key to value, as typed; a later word for a key replaces an earlier one."""
        pairs = (word.lstrip("+").partition("=") for word in self.words)
        return {key: value for key, sign, value in pairs if sign}

    @cached_property
    def settings(self) -> dict[str, Hashable]:
        """Dotted key to value of all that is trained but the seed; see `flat_settings`."""
        return _tried(lambda: flat_settings(self.config, self.typed), {})

    @property
    def seed(self) -> Any:
        """From the config, else as typed, else the default."""
        return self.config.get("seed", as_value(self.typed.get("seed", "0")))

    @property
    def command(self) -> str:
        """What repeats the run, quoted for a shell.

        Of one that began from a saved config, which its words only change, the run's own config.
        """
        primary, own = self._flag("--config-name"), self._flag("--config-dir")
        if primary == _SAVED:
            own = readable(str(self.folder.absolute()))
            flags = ["--config-dir", own, "--config-name", "config"]
            return shlex.join(["wgan-train", *flags])
        flags = ["--config-dir", own] if own else []
        flags += ["--config-name", primary] if primary not in (None, _PRIMARY) else []
        return shlex.join(["wgan-train", *flags, *self.words])

    @cached_property
    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Tag to steps and finite values (n,), from `metrics.jsonl`, steps rising."""
        found: dict[str, dict[int, float]] = {}
        points: list[dict[str, float]] = _tried(RunFolder(self.folder).read_metrics, [])
        # No run has more steps than a float can count.
        for point in (point for point in points if 0 <= point["step"] < 2**53):
            for tag, value in point.items():
                number = _number(value, float)
                if tag != "step" and number is not None:
                    found.setdefault(readable(tag), {})[int(point["step"])] = number
        return {
            tag: (np.array(sorted(curve)), np.array([curve[step] for step in sorted(curve)]))
            for tag, curve in found.items()
        }

    @property
    def newest_samples(self) -> Path | None:
        """The newest picture in `samples/`, if there is one."""
        found: list[Path] = _tried(lambda: list(self.folder.glob("samples/step_*.png")), [])
        return max(found, default=None)

    def _flag(self, name: str) -> str | None:
        """What followed a flag when the run was started, which hands its flags on at the end."""
        words = (
            self.argv[len(self.argv) - self.argv[::-1].index(name) :] if name in self.argv else []
        )
        return words[0] if words else None


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Every run in or below the paths, in the order of their names, each once.

    A folder with `status.json` or `config.yaml` is a run, also by a link to it. Files that are
    missing, broken or half written raise nothing: such a run is listed with what can be read.
    """
    folders: dict[str, Path] = {}
    for path in paths:
        for folder in _run_folders(path):
            folders.setdefault(os.path.realpath(folder), folder)
    places = [Path(os.path.realpath(path)) for path in paths]
    base = Path(os.path.commonpath(places)) if places else Path()
    if str(base) in folders:
        base = base.parent
    runs = [_read(folder, _name(Path(real), base)) for real, folder in folders.items()]
    return sorted(runs, key=lambda run: natural(run.name))


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that puts job 2 before job 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def readable(node: Any) -> Any:
    """The node with every text in it such that a file can hold it: JSON can spell half a sign."""
    if isinstance(node, str):
        return node.encode(errors="replace").decode()
    if isinstance(node, dict):
        return {readable(key): readable(value) for key, value in node.items()}
    return [readable(value) for value in node] if isinstance(node, list) else node


def _run_folders(path: Path) -> Iterator[Path]:
    for place, below, files in os.walk(path):
        run = STATUS in files or CONFIG in files
        # What else a link leads to may be a whole disk, or the folder that it is in.
        links = [link for link in (Path(place, name) for name in below) if link.is_symlink()]
        yield from (link for link in sorted(links) if RunFolder(link).holds_run())
        below[:] = sorted(
            name for name in below if not name.startswith(".") and not (run and name in _INNER)
        )
        if run:
            yield Path(place)


def _name(folder: Path, base: Path) -> str:
    return os.path.relpath(folder, base)


def _read(path: Path, name: str) -> Run:
    folder = RunFolder(path)
    status = read_status(path)
    gone = status.running and folder.left()
    if gone:
        # It may have ended since its status was read.
        status = read_status(path)
    run = Run(path, readable(name), words=_tried(lambda: readable(folder.read_overrides()), []))
    run.argv = _tried(lambda: readable(read_command(path)), [])
    run.config = _tried(lambda: readable(_config(path / CONFIG)), {})
    run.state = status.state or "unknown"
    run.message = " ".join(status.message.split())
    if gone and status.running:
        run.state = CUT_OFF
        again = f"its process is gone; resume={readable(str(path))} goes on with it"
        run.message = f"{run.message} {again}".strip()
    run.ended = status.ended or ""
    run.step = status.step
    run.steps = status.steps or _number(run.config.get("steps"), int)
    run.seconds = status.seconds
    run.final = dict(status.final)
    if not status.state:
        run.final = {tag: float(values[-1]) for tag, (_, values) in run.curves.items()}
        run.step = max((int(steps[-1]) for steps, _ in run.curves.values()), default=0)
    return run


def _number(value: Any, kind: type[T]) -> T | None:
    """A finite number of this kind, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return kind(value) if math.isfinite(value) else None  # type: ignore[call-arg]
    # A whole number that no float can hold.
    except OverflowError:
        return None


def _tried(read: Callable[[], T], otherwise: T) -> T:
    """What `read` gives; `otherwise` where a file is not what a run writes, however it is not."""
    try:
        return read()
    except Exception:
        return otherwise


def _config(path: Path) -> dict[str, Any]:
    config = read_yaml(path.read_text())
    return {str(key): value for key, value in config.items()}

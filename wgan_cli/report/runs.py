"""Read run folders for a report, including unfinished and damaged ones."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wgan_cli.locks import is_stale
from wgan_cli.operating_system import common_folder, relative
from wgan_cli.process_control import shell_words
from wgan_cli.report.settings import flat_settings, parse_value
from wgan_cli.run_folder import CONFIG, LOCK, RunFolder
from wgan_cli.run_status import STATUS, read_status
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.study import FAILED, PRUNED, StudySummary
from wgan_cli.untrusted_files import read_yaml

# Runs in these states would fail again if resumed. They are listed last and not averaged.
_FAILED = ("diverged", "failed")
# Subfolders of a run folder that are not searched for other runs.
_INNER = ("checkpoints", "samples", "tensorboard", "evaluation", "profile")
# Runs are searched for this many folders deep.
_DEEPEST = 64
# Values of --config-name that wgan-train passes to Hydra: the default, and a saved config's name.
_PRIMARY, _SAVED = "train", "_saved_config"

# A word that chooses an option or sets a setting. Others, such as +hydra.callbacks.x._target_=f or
# a reference, may call functions.
_PLAIN_WORD = re.compile(
    r"[+~]*(?!hydra\b|defaults\b)[A-Za-z]\w*(\.[A-Za-z]\w*)*(=(?!.*(\$\{|_target_)).*)?", re.S
)

_PRUNED_REASON = "ended early: worse than half of the trials before it"

_MAX = sys.float_info.max

T = TypeVar("T")


@dataclass
class Run:
    """One run: its folder, its `name` in tables, and the contents of its files.

    `state`, `message`, `step`, `steps`, `seconds`, `ended` and `final` (tag to finite number) come
    from `status.json`. If the file says "running" but the process has ended, `state` is "cut off".
    `config` is the content of `config.yaml`, empty if it cannot be read. `overrides` are the
    overrides that the user typed, and `argv` is the command line of the process.
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
    overrides: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """True if the run completed all steps. Only finished runs are included in a mean."""
        return self.state == "finished"

    @property
    def failed(self) -> bool:
        """True if the run diverged or failed."""
        return self.state in _FAILED

    @property
    def override_values(self) -> dict[str, str]:
        """The overrides as a mapping from key to value text; the last override of a key wins."""
        pairs = (override.lstrip("+").partition("=") for override in self.overrides)
        return {key: value for key, equals, value in pairs if equals}

    @cached_property
    def settings(self) -> dict[str, Hashable]:
        """The settings from `flat_settings`, by dotted key; empty for a damaged config."""
        return _tried(lambda: flat_settings(self.config, self.override_values), {})

    @property
    def seed(self) -> Any:
        """The seed: from the config, else from the overrides, else the default."""
        return self.config.get("seed", parse_value(self.override_values.get("seed", "0")))

    @property
    def command(self) -> str:
        """The command line that repeats the run, quoted for a shell.

        If the run started from another run's saved config, its overrides alone do not define it.
        The command then uses the config that this run saved. It also does so if a word or the
        folder of options may run code: somebody else may have written them for you to paste.
        """
        # The last value of a flag counts: wgan-train appends its own flags for Hydra.
        flag_values = dict(zip(self.argv, self.argv[1:], strict=False))
        primary, config_dir = flag_values.get("--config-name"), flag_values.get("--config-dir")
        safe = all(map(_PLAIN_WORD.fullmatch, self.overrides))
        if primary == _SAVED or not safe or _is_within(config_dir, self.folder):
            saved = readable(str(self.folder.absolute()))
            return shell_words(["wgan-train", "--config-dir", saved, "--config-name", "config"])
        flags = ["--config-dir", config_dir] if config_dir else []
        flags += ["--config-name", primary] if primary not in (None, _PRIMARY) else []
        return shell_words(["wgan-train", *flags, *self.overrides])

    @cached_property
    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Maps each tag in `metrics.jsonl` to increasing steps (n,) and finite values (n,)."""
        by_tag: dict[str, dict[int, float]] = {}
        points: list[dict[str, float]] = _tried(RunFolder(self.folder).read_metrics, [])
        for point in points:
            # Skip a step that float64 cannot represent exactly: the file must be damaged.
            if not 0 <= point["step"] < 2**53:
                continue
            for tag, value in point.items():
                # Python's integers can be too large for a float.
                if tag != "step" and -_MAX <= value <= _MAX:
                    by_tag.setdefault(readable(tag), {})[int(point["step"])] = float(value)
        return {
            tag: (np.array(sorted(curve)), np.array([curve[step] for step in sorted(curve)]))
            for tag, curve in by_tag.items()
        }

    @property
    def newest_samples(self) -> Path | None:
        """The path of the newest picture in `samples/`, or None if there is none."""
        pictures: list[Path] = _tried(lambda: list(self.folder.glob("samples/step_*.png")), [])
        return max(pictures, default=None)


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return every run at or below the paths once, sorted by name.

    A run folder, or a link to one, contains `status.json` or `config.yaml`. Damaged or missing
    files raise no error: the run then holds only the data that can be read.
    """
    folders: dict[str, Path] = {}
    for path in paths:
        for folder in _run_folders(path):
            folders.setdefault(os.path.realpath(folder), folder)
    roots = [os.path.realpath(path) for path in paths]
    base = common_folder(roots)
    if base is not None and str(base) in folders:
        base = base.parent
    runs = [_read_safely(folder, relative(real, base)) for real, folder in folders.items()]
    return sorted(runs, key=lambda run: natural(run.name))


def apply_trial_states(runs: Iterable[Run], folder: Path, study: StudySummary) -> None:
    """Set the state and message of runs that are trials of the search in `folder`.

    They come from `study`, which knows more than a run's status: the run of a pruned trial records
    only a stop signal, and a killed run records nothing. Finished runs and running trials do not
    change.
    """
    search_folder = SearchFolder(folder)
    trials = {os.path.realpath(search_folder.trial(t.number)): t for t in study.trials}
    for run in runs:
        trial = trials.get(os.path.realpath(run.folder))
        if trial is not None and trial.state in (PRUNED, FAILED) and not run.finished:
            run.state = trial.state
            run.message = _PRUNED_REASON if trial.state == PRUNED else trial.reason


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that compares numbers by value: job 2 comes before job 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def readable(node: Any) -> Any:
    """Return the node without lone surrogates: JSON allows them, but UTF-8 cannot encode them."""
    if isinstance(node, str):
        return node.encode(errors="replace").decode()
    if isinstance(node, dict):
        return {readable(key): readable(value) for key, value in node.items()}
    return [readable(value) for value in node] if isinstance(node, list) else node


def _is_within(folder: str | None, run: Path) -> bool:
    return folder is not None and Path(os.path.realpath(folder)).is_relative_to(run.resolve())


def _run_folders(path: Path) -> Iterator[Path]:
    # Not os.walk, which is recursive in Python 3.10 and fails in a deep tree.
    waiting = [(path, 0)]
    while waiting:
        parent, depth = waiting.pop()
        entries: list[os.DirEntry[str]] = _tried(partial(_entries, parent), [])
        below = [entry for entry in entries if _tried(entry.is_dir, False)]
        files = {entry.name for entry in entries if entry not in below}
        is_run = STATUS in files or CONFIG in files
        if is_run:
            yield parent
        # Follow only links to runs: any other link may lead to a huge folder or form a loop.
        links = [Path(entry.path) for entry in below if entry.is_symlink()]
        yield from (link for link in links if _tried(RunFolder(link).holds_run, False))
        if depth == _DEEPEST:
            continue
        for entry in reversed(below):
            hidden = entry.name.startswith(".") or (is_run and entry.name in _INNER)
            if not entry.is_symlink() and not hidden:
                waiting.append((Path(entry.path), depth + 1))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _read_safely(path: Path, name: str) -> Run:
    """Return the run in a folder, or one with a message if its files cannot be read."""
    unread = Run(path, readable(name), message="The files of this run cannot be read.")
    return _tried(lambda: _read(path, name), unread)


def _read(path: Path, name: str) -> Run:
    folder = RunFolder(path)
    status = read_status(path)
    gone = status.running and is_stale(path / LOCK)
    if gone:
        # The run may have ended since the first read.
        status = read_status(path)
    run = Run(path, readable(name), overrides=_tried(lambda: readable(folder.read_overrides()), []))
    run.argv = _tried(lambda: readable(folder.read_command()), [])
    config: Any = _tried(lambda: readable(read_yaml(path / CONFIG)), {})
    run.config = {str(k): v for k, v in config.items()} if isinstance(config, dict) else {}
    run.state = status.state or "unknown"
    run.message = " ".join(status.message.split())
    if gone and status.running:
        run.state = "cut off"
        words = shell_words([f"resume={readable(str(path))}"])
        hint = f"its process is gone; {words} continues it"
        run.message = f"{run.message} {hint}".strip()
    run.ended = status.ended or ""
    run.step = status.step
    steps = run.config.get("steps")
    run.steps = status.steps or (steps if isinstance(steps, int) else None)
    run.seconds = status.seconds
    run.final = dict(status.final)
    if not status.state:
        run.final = {tag: float(values[-1]) for tag, (_, values) in run.curves.items()}
        run.step = max((int(steps[-1]) for steps, _ in run.curves.values()), default=0)
    return run


def _tried(read: Callable[[], T], otherwise: T) -> T:
    """Return the result of `read()`, or `otherwise` if a file is damaged in any way."""
    try:
        return read()
    except Exception:
        return otherwise

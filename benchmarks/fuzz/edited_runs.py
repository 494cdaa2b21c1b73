"""Folders of honest runs, sweeps and searches, edited, and the commands that read them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.fuzz.command_lines import SHORT
from benchmarks.fuzz.contents import (
    EVIL_MODULE,
    Edit,
    as_yaml,
    bytes_changed,
    payload,
    replaced,
    tree_change,
    value_changed,
)
from benchmarks.fuzz.values import path_of

Names = tuple[str, ...]
RUN, SWEEP, SEARCH = "theirs", "sweep", "found"
LAST = "checkpoints/step_00000002.pt"
FILES: Names = (
    *("config.yaml", "overrides.yaml", "environment.json", "metrics.jsonl", "status.json"),
    *("train.log", ".lock", "evaluation.json", LAST, "checkpoints/step_00000001.pt"),
    *(
        "samples/step_00000002.png",
        "samples/n8_seed0.png",
        "report.html",
        "report.png",
        "summary.csv",
    ),
)
TREES: Names = ("config.yaml", "overrides.yaml", "environment.json", "metrics.jsonl", "status.json")
FOLDERS: Names = (
    "samples",
    "checkpoints",
    "tensorboard",
    "evaluation",
    "profile",
    "trials",
    "report",
)
CHECKPOINT_KEYS = (
    *("format", "step", "config", "sample_shape", "generator", "generator_ema", "critic"),
    *("critic_optimizer", "generator_optimizer", "window", "data", "classes", "rollback", "x"),
)
SWEEP_FILES: Names = (
    "multirun.yaml",
    ".lock",
    "report.html",
    "report.png",
    "summary.csv",
    "0",
    "1",
)
SEARCH_FILES: Names = (
    "search.yaml",
    "study.log",
    ".study.log.lock",
    "trials",
    "best.yaml",
    "report.html",
)
ADDED: dict[str, bytes] = {
    "hydra/launcher/basic.yaml": as_yaml({"hydra": {"callbacks": {"x": payload()}}}).encode(),
    "hydra/launcher/basic2.yaml": b"# @package _global_\nhydra: {callbacks: 3}",
    "hydra/sweeper/basic.yaml": as_yaml(payload()).encode(),
    "hydra/config.yaml": as_yaml({"callbacks": {"x": payload()}}).encode(),
    "hydra/job_logging/none.yaml": as_yaml({"handlers": {"x": {"()": "os.mkdir"}}}).encode(),
    "_saved_config.yaml": as_yaml({"hydra": {"callbacks": {"x": payload()}}}).encode(),
    "train.yaml": as_yaml({"hydra": {"callbacks": {"x": payload()}}, "steps": 1}).encode(),
    "model/mlp.yaml": as_yaml({"name": "mlp", "generator": payload()}).encode(),
    "loss/wasserstein.yaml": as_yaml(payload()).encode(),
    "hydra_plugins/evil.py": EVIL_MODULE.encode(),
    "sitecustomize.py": EVIL_MODULE.encode(),
    "yaml.py": EVIL_MODULE.encode(),
    "conftest.py": EVIL_MODULE.encode(),
    "checkpoints/step_99999999.pt": b"",
    "checkpoints/step_x.pt": b"x",
    "checkpoints/.step_00000003.pt.1.tmp": b"x",
    "samples/step_\udcff.png": b"x",
    "tensorboard/events.out.tfevents.9.x.1.0": b"x" * 100,
    "status.json.tmp": b"x",
    "<b>&'\".txt": b"x",
}


def edited_run(random: Random) -> tuple[str, list[str], list[Edit], str]:
    """Return a command's name, its words, the edits, and which honest folder is edited.

    That is RUN, SWEEP or SEARCH: its copy has the same name in the case's folder.
    """
    draw = random.random()
    if draw < 0.04:
        kind, (command, words) = SEARCH, ("wgan-search", [SEARCH])
    elif draw < 0.15:
        kind, (command, words) = SWEEP, random.choice(_OF_SWEEPS)
    else:
        kind, (command, words) = RUN, random.choice(_OF_RUNS)
    if command == "wgan-report" and random.random() < 0.3:
        words = [random.choice([kind, "."])]
    edits = [_edit(random, kind) for _ in range(random.choice([1, 1, 2, 3]))]
    return command, list(words), edits, kind


_GO_ON = [f"resume={RUN}", "steps=3", "device=cpu", "threads=1"]
_OF_RUNS: list[tuple[str, list[str]]] = [
    ("wgan-train", _GO_ON),
    ("wgan-train", _GO_ON),
    ("wgan-train", [f"resume={RUN}/{LAST}", "steps=3"]),
    ("wgan-train", ["resume=auto", f"hydra.run.dir={RUN}", *SHORT, "ema=0.5", "steps=3"]),
    ("wgan-train", ["--config-dir", RUN, "--config-name", "config", "steps=1"]),
    ("wgan-train", ["--config-dir", RUN, "--config-name", "config", "--cfg", "job"]),
    ("wgan-train", ["--config-dir", RUN, *SHORT]),
    ("wgan-train", [f"hydra.run.dir={RUN}", *SHORT]),
    ("wgan-sample", [RUN, "--n", "8"]),
    ("wgan-sample", [f"{RUN}/{LAST}", "--n", "8", "--raw"]),
    ("wgan-sample", [RUN, "--n", "8", "--out", f"{RUN}/samples/x.npy"]),
    ("wgan-eval", [RUN, "--metrics", "exact", "--n", "8"]),
    ("wgan-eval", [RUN, "--metrics", "exact", "--n", "8", "--checkpoint", "1"]),
    ("wgan-eval", [RUN, "--metrics", "exact", "--n", "8", "--all-checkpoints"]),
    ("wgan-report", [RUN]),
    ("wgan-report", [RUN, "--out", "page"]),
    ("wgan-report", [RUN, "--by", "critic/loss"]),
]
_OF_SWEEPS: list[tuple[str, list[str]]] = [
    ("wgan-train", ["-m", *SHORT, "seed=0,1", f"hydra.sweep.dir={SWEEP}"]),
    ("wgan-train", ["-m", *SHORT, "seed=1,2", f"hydra.sweep.dir={SWEEP}"]),
    ("wgan-report", [SWEEP]),
    ("wgan-eval", [f"{SWEEP}/1", "--metrics", "exact", "--n", "8"]),
]


def _edit(random: Random, kind: str) -> Edit:
    start: str
    names: Names
    trees: Names
    if kind == SEARCH and random.random() < 0.7:
        start, names, trees = SEARCH, SEARCH_FILES, ("search.yaml", "study.log")
    elif kind == SWEEP and random.random() < 0.4:
        start, names, trees = SWEEP, SWEEP_FILES, ("multirun.yaml",)
    else:
        start = {
            RUN: RUN,
            SWEEP: f"{SWEEP}/{random.randint(0, 1)}",
            SEARCH: f"{SEARCH}/trials/0000",
        }[kind]
        names, trees = FILES, TREES
    draw = random.random()
    if draw < 0.2:
        return bytes_changed(f"{start}/{random.choice(names)}", random)
    if draw < 0.5:
        return value_changed(f"{start}/{random.choice(trees)}", random)
    if draw < 0.65:
        return replaced(f"{start}/{random.choice(names)}", random)
    if draw < 0.75:
        return replaced(f"{start}/{random.choice(FOLDERS)}", random)
    if draw < 0.83:
        return _added(start, random)
    return _resealed(f"{start}/{LAST}", random)


def _added(start: str, random: Random) -> Edit:
    name = random.choice(sorted(ADDED))

    def make(folder: Path) -> None:
        if not (folder / start).is_dir():
            return
        try:
            path_of(folder / start, name).write_bytes(ADDED[name])
        except OSError:
            # An earlier edit has put something else there.
            return

    return Edit(f"{start} has a file {name}", make)


def _resealed(name: str, random: Random) -> Edit:
    """Return an edit that changes a value of a checkpoint, and seals it as this program does."""
    key = random.choice(CHECKPOINT_KEYS)
    how = random.choice(["odd", "odd", "odd", "gone", "a tensor", "a payload", "inside"])
    what, change = tree_change(random)
    what = f"{name}: {key} is {how}" + (f", {what}" if how in ("odd", "inside") else "")

    def make(folder: Path) -> None:
        import torch

        from wgan_cli.errors import WganError
        from wgan_cli.training.checkpoint import load_checkpoint, save_checkpoint

        path = folder / name
        if path.is_symlink() or not path.is_file():
            return
        try:
            state = load_checkpoint(path)
        except WganError:
            # An earlier edit has broken it.
            return
        new: dict[str, Callable[[], Any]] = {
            "odd": lambda: change({"x": 0})["x"] if "gone" not in what else [],
            "a tensor": lambda: torch.full((3,), float("nan")),
            "a payload": payload,
            "inside": lambda: change(state.get(key)),
        }
        if how == "gone":
            state.pop(key, None)
        else:
            state[key] = new[how]()
        # Python's own limit: such a file has to be made by other means.
        with suppress(RecursionError):
            save_checkpoint(path, state)

    return Edit(what, make)


def decoys(folder: Path) -> None:
    """Write modules into the folder that leave the trace when a command imports them from there."""
    for name in ("hydra_plugins/evil.py", "sitecustomize.py", "yaml.py", "decoy.py"):
        path_of(folder, name).write_text(EVIL_MODULE)

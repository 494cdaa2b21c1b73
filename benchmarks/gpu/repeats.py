"""Part 3: graphs against eager updates, and cut and resumed runs against uncut ones.

All runs are commands under `deterministic=true`, so that the same run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.commands import Finished, at_once, stop_after_first_line, together, train
from benchmarks.gpu.compare import difference
from benchmarks.gpu.records import Work
from benchmarks.gpu.updates import make_images

PATHS = {"graphs": "graphs=true", "eager": "graphs=false"}
QUIET = ("device=cuda", "deterministic=true", "logger=none", "metrics=[]", "log_every=10")
LONG = 2000
# The two paths may add numbers in another order, for example where eager code makes the fakes of
# several updates at once.
APART = 1e-2
# What a checkpoint holds of the training itself.
_STATE = (
    "step",
    "generator",
    "critic",
    "generator_optimizer",
    "critic_optimizer",
    "generator_ema",
    "window",
)


def run(work: Work) -> None:
    """Run the part."""
    make_images(work.folder)
    sides: dict[str, Callable[[], object]] = {}
    for path in PATHS:
        sides[f"cut {path}"] = lambda path=path: _cut(work, path)  # type: ignore[misc]
    for name, words in models(work.folder).items():
        sides[name] = lambda name=name, words=words: _paths(work, name, words)  # type: ignore[misc]
    sides["CPU and CUDA"] = lambda: _devices(work)
    for path in PATHS:
        sides[f"stopped {path}"] = lambda path=path: _stopped(work, path)  # type: ignore[misc]
    together(sides, at_once())


def models(folder: Path) -> dict[str, list[str]]:
    """The runs whose two paths are compared."""
    images = ["dataset=array", f"dataset.path={folder / 'images.npy'}", "batch_size=32"]
    images += ["n_critic=3", "model.generator.width=16", "model.critic.width=16"]
    penalty = ["constraint=gradient_penalty", "optimizer=adam", "optimizer.lr=1e-4"]
    return {
        "digits": [],
        "digits fp32": ["precision=fp32"],
        "dcgan": [*images, "model=dcgan"],
        "dcgan fp32": [*images, "model=dcgan", "precision=fp32"],
        "resnet with penalty fp32": [*images, "model=resnet", *penalty, "precision=fp32"],
    }


def checkpoint(run: Path, step: int) -> dict[str, Any]:
    """What a run's checkpoint holds of the training."""
    file = run / "checkpoints" / f"step_{step:08}.pt"
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return {key: state[key] for key in _STATE if key in state}


def _train(work: Work, name: str, run: Path, words: list[str], code: int = 0) -> Finished | None:
    """Run a command and check its exit code; None if that is another, or no time is left."""
    if not work.has(5, name):
        return None
    done = train(run, [*QUIET, *words], work.left)
    passed = done.code == code and "Traceback" not in done.stderr
    if done.timed_out and not passed:
        work.report.skipped(name, "cut off by the part's time")
        return None
    work.report.check(f"{name}: exit code", passed, done.in_short(code), f"exit code {code}")
    return done if passed else None


def _same_bits(work: Work, name: str, one: Path, other: Path, step: int) -> None:
    found = difference(checkpoint(one, step), checkpoint(other, step))
    work.report.check(name, found["equal"], found, "the same bits", numbers=True)


def _paths(work: Work, name: str, words: list[str]) -> None:
    runs: dict[str, Path] = {}
    steps = ["steps=50", "checkpoint_every=50"]
    for path, word in PATHS.items():
        run = work.folder / f"paths {name}" / path
        done = _train(work, f"{name}, {path}, 50 steps", run, [*words, *steps, word])
        if done is None:
            return
        runs[path] = run
        if path == "graphs":
            lines = done.without_graph
            work.report.check(f"{name}: captured", not lines, lines or "yes", "no fallback")
    found = difference(*(checkpoint(run, 50) for run in runs.values()))
    work.report.check(
        f"{name}: graphs against eager, 50 steps",
        found["equal"] or found["largest"] <= APART,
        found,
        f"the same bits, or tensors within {APART:g} of their norm",
        numbers=True,
    )


def _cut(work: Work, path: str) -> None:
    word, folder = PATHS[path], work.folder / f"cut {path}"
    name = f"{path}, cut at 25 and resumed to 50"
    uncut, cut = folder / "uncut", folder / "cut"
    if (
        _train(work, f"{path}, 50 steps", uncut, ["steps=50", word])
        and _train(work, f"{path}, 25 steps", cut, ["steps=25", word])
        and _train(work, name, cut, [f"resume={cut}", "steps=50"])
    ):
        _same_bits(work, name, uncut, cut, 50)


def _stopped(work: Work, path: str) -> None:
    word, folder = PATHS[path], work.folder / f"stopped {path}"
    name = f"{path}, stopped by SIGTERM and resumed to {LONG}"
    uncut, cut = folder / "uncut", folder / "cut"
    steps = [f"steps={LONG}", word]
    if not _train(work, f"{path}, {LONG} steps", uncut, steps) or not work.has(8, name):
        return
    stopped = train(cut, [*QUIET, *steps], work.left, during=stop_after_first_line(cut))
    if stopped.code == 0:
        work.report.skipped(name, "the run ended before the signal came")
        return
    passed = stopped.code == 75
    work.report.check(f"{path}, SIGTERM: exit code", passed, stopped.in_short(75), "exit code 75")
    if passed and _train(work, name, cut, [f"resume={cut}"]):
        _same_bits(work, name, uncut, cut, LONG)


def _devices(work: Work) -> None:
    run = work.folder / "devices" / "run"
    name = "CPU to CUDA to CPU"
    seen: list[dict[str, Any]] = []
    for steps, device in ((20, "cpu"), (40, "cuda"), (60, "cpu")):
        start = [f"resume={run}"] if seen else ["precision=fp32", "threads=2"]
        words = [*start, f"steps={steps}", f"device={device}"]
        if _train(work, f"{name}: {device} to step {steps}", run, words) is None:
            return
        seen.append(checkpoint(run, steps))
    weights = [torch.cat([w.flatten() for w in state["critic"].values()]) for state in seen]
    moved = [float((end - start).norm()) for start, end in pairwise(weights)]
    finite = bool(torch.stack([w.isfinite().all() for w in weights]).all())
    work.report.check(
        name,
        finite and min(moved) > 0,
        {"finite": finite, "moved": moved},
        "finite weights that move on each device",
        numbers=True,
    )

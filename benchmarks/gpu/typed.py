"""Part 5: the commands as a user types them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.commands import Finished, at_once, execute, together, train
from benchmarks.gpu.records import Work
from benchmarks.sample_images import write_smooth

IMAGES = 600


def run(work: Work) -> None:
    """Run the part."""
    folder = work.folder / "typed"
    folder.mkdir(exist_ok=True)
    default = _train(work, "default run", folder / "default", ["device=cuda", "steps=300"])
    first = _train(work, "first step", folder / "first", ["device=cuda", "steps=2", "log_every=1"])
    if first is not None and first.first_step is not None:
        work.report.fact("seconds to the first step", round(first.first_step, 2))
    cases: dict[str, Callable[[], object]] = {
        "profile": lambda: _profile(work, folder),
        "folder": lambda: _folder(work, folder),
        "sweep": lambda: _sweep(work, folder),
        "conditional": lambda: _train(
            work, "conditional", folder / "classes", ["device=cuda", "steps=60", "conditional=true"]
        ),
    }
    if default is not None and default.code == 0:
        cases["eval"] = lambda: _after(work, "wgan-eval", folder)
        cases["sample"] = lambda: _after(work, "wgan-sample", folder)
    together(cases, at_once())


def _judge(work: Work, name: str, done: Finished, *, numbers: bool = False) -> bool:
    """Check the exit code and stderr; write the time. `numbers`: whether code 0 needs values."""
    if done.timed_out:
        work.report.skipped(name, "cut off by the part's time")
        return False
    report = work.report
    report.fact(f"{name}: seconds", round(done.seconds, 1))
    report.check(f"{name}: exit code", done.code == 0, done.in_short(0), 0, numbers=numbers)
    lines = done.foreign
    report.check(
        f"{name}: stderr",
        not lines,
        lines[:12] or "only the program's own log",
        "only the program's own log",
        numbers=numbers and done.code != 0,
    )
    warnings = done.warnings
    report.check(f"{name}: log", not warnings, warnings or "no warning", "no warning", numbers=True)
    return done.code == 0


def _train(work: Work, name: str, run: Path, words: list[str], **more: Any) -> Finished | None:
    if not work.has(5, name):
        return None
    done = train(run, words, work.left, **more)
    return done if _judge(work, name, done) else None


def _profile(work: Work, folder: Path) -> None:
    run = folder / "profile"
    if _train(work, "profile=true", run, ["device=cuda", "steps=60", "profile=true"]) is None:
        return
    files = [path.name for path in (run / "profile").glob("*")]
    work.report.check("profile=true: files", bool(files), files, "a trace in profile/")


def _folder(work: Work, folder: Path) -> None:
    images = folder / "images"
    write_smooth(images, IMAGES, 48)
    for name, in_memory in (("streamed folder", "false"), ("folder in memory", "true")):
        words = ["device=cuda", "dataset=image_folder", f"dataset.root={images}", "dataset.size=32"]
        words += [f"dataset.in_memory={in_memory}", "model=dcgan", "steps=60", "metrics=[]"]
        words += ["model.generator.width=16", "model.critic.width=16"]
        _train(work, name, folder / name.replace(" ", "_"), words)


def _sweep(work: Work, folder: Path) -> None:
    if not work.has(8, "sweep"):
        return
    sweep = folder / "sweep"
    words = ["-m", "loss=wasserstein,hinge", "device=cuda", "steps=60", f"hydra.sweep.dir={sweep}"]
    done = execute("wgan-train", words, folder, work.left, run=sweep)
    _judge(work, "sweep", done)
    jobs = sorted(path.parent.name for path in sweep.glob("*/status.json"))
    work.report.check("sweep: jobs", len(jobs) == 2, jobs, "two folders with status.json")


def _after(work: Work, command: str, folder: Path) -> None:
    """Run wgan-eval or wgan-sample on the default run."""
    if not work.has(5, command):
        return
    run = folder / "default"
    done = execute(command, [str(run)], folder, work.left, run=run)
    # Samples without values are all equal, and have no distances.
    _judge(work, command, done, numbers=command == "wgan-eval")
    names = {"wgan-eval": "evaluation.json", "wgan-sample": "samples/n64_seed0.png"}
    file = run / names[command]
    work.report.check(
        f"{command}: file", file.exists(), file.exists(), names[command], numbers=done.code != 0
    )

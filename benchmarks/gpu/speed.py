"""Part 6: the textbook loop, the tool kernel by kernel and the tool by default, timed in turns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.cases import run_cases
from benchmarks.gpu.profiling import parts_of_step, peak_of, synchronisations
from benchmarks.gpu.records import Work
from benchmarks.gpu.trainings import mnist_data, mnist_root
from benchmarks.measuring import Loop, Stopwatch, tutorial_precision
from benchmarks.sample_images import write_smooth
from benchmarks.textbook import Textbook
from benchmarks.workloads import WORKLOADS, Tool, reading, textbook, textbook_data, tool
from wgan_cli.cores import usable_cores

# In the order of their weight, in case the time is over before the last.
CASES = ("mlp", "dcgan32", "dcgan64", "resnet", "digits")
# Milliseconds a step that the tool is meant to take on an H100 or H200.
ESTIMATES = {"mlp": 1.0, "dcgan32": 1.3, "dcgan64": 3.0, "resnet": 15.0}
IMAGES = 2000
# Enough for the warm-up and the capture of graphs.
_FIRST_STEPS = 8
_REPEATS = 3


def run(work: Work) -> None:
    """Run the part."""
    write_smooth(work.folder / "images64", IMAGES, 64)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8)
    np.save(work.folder / "images32.npy", coarse.repeat(4, 1).repeat(4, 2))
    grey = rng.integers(0, 256, (10_000, 7, 7), dtype=np.uint8)
    np.save(work.folder / "images28.npy", grey.repeat(4, 1).repeat(4, 2))
    if work.mnist is not None:
        mnist_root(work)
    run_cases(work, 6, CASES, 1, longest=max(30.0, work.seconds / 3))


def words_of(name: str, work: Work) -> list[str]:
    """The overrides of a workload, with data that the benchmark made itself."""
    folder = work.folder
    data = {
        "mlp": ["dataset=array", f"dataset.path={folder / 'images28.npy'}", "ema=0.995"],
        "dcgan32": ["dataset=array", f"dataset.path={folder / 'images32.npy'}"],
        "dcgan64": ["dataset=image_folder", f"dataset.root={folder / 'images64'}"],
        "resnet": ["dataset=array", f"dataset.path={folder / 'images32.npy'}"],
        "digits": [],
    }[name]
    if name == "mlp" and work.mnist is not None:
        data = mnist_data(work)
    return [*data, *WORKLOADS[name].words, "device=cuda"]


@dataclass
class _Sides:
    """The loops of a workload, the peak MiB of each, and what must be open around its steps."""

    steps: dict[str, Callable[[], object]]
    opened: dict[str, Callable[[], AbstractContextManager[object]]]
    memory: dict[str, float]


def run_case(name: str, work: Work) -> None:
    """Measure a workload."""
    share = work.left / (len(CASES) - CASES.index(name))
    report, words = work.report, words_of(name, work)
    data = tool([*words, "graphs=false"]).dataset
    built: dict[str, Tool] = {}
    memory: dict[str, float] = {}
    steps: dict[str, Callable[[], object]] = {}

    def build(side: str, more: list[str]) -> Callable[[], object]:
        built[side] = tool([*words, *more], data)
        return built[side].trainer.train_step

    for side, more in (("default", []), ("eager", ["graphs=false"])):
        steps[side], memory[side] = peak_of(partial(build, side, more), _FIRST_STEPS)
    one = built["default"]
    report.fact(f"{name}: precision", one.config.precision)
    sides = _Sides(steps, {"default": nullcontext, "eager": nullcontext}, memory)
    watch = Stopwatch(one.device, one.config.n_critic, max(0.1, min(1.5, share / 30)))
    _add_textbook(one, sides)
    loops = {side: Loop(steps[side], sides.opened[side]) for side in steps}
    times = watch.times(loops, _REPEATS)
    found: dict[str, Any] = {}
    for side in loops:
        found[side] = {
            "ms": round(times[side].median, 3),
            "range": [round(each, 3) for each in times[side].blocks],
            "peak_mib": round(memory[side], 1),
        }
    for side in loops:
        report.fact(f"{name}: {side}", found[side])
    ratios = {side: found["textbook"]["ms"] / found[side]["ms"] for side in ("eager", "default")}
    report.fact(f"{name}: ratios to the textbook loop", ratios)
    report.fact(f"{name}: ms wanted on an H100", ESTIMATES.get(name))
    target = WORKLOADS[name].targets.get("cuda")
    if target is not None:
        ratio = ratios["default"]
        report.check(f"{name}: speed-up", ratio >= target, ratio, f">= {target:g}", numbers=True)
    _parts(name, work, sides, found)
    for each in built.values():
        each.trainer.inputs.feed.close()


def _add_textbook(one: Tool, sides: _Sides) -> None:
    """Add the textbook loop, with as many DataLoader workers as are fastest for it."""

    def build() -> Textbook:
        return textbook(one.config, one.device, one.dataset.sample_shape)

    data = textbook_data(one.config)
    loops: dict[str, Textbook] = {}

    @contextmanager
    def opened(workers: int) -> Any:
        with ExitStack() as stack:
            # DataLoader warns of more workers than cores.
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(tutorial_precision(one.device))
            stack.enter_context(reading(loops["textbook"], data, one.config.batch_size, workers))
            yield

    def first_steps() -> Callable[[], object]:
        loops["textbook"] = build()
        return loops["textbook"].step

    with tutorial_precision(one.device):
        step, before = peak_of(first_steps, 0)
    with opened(0):
        _, peak = peak_of(lambda: step, 2)
    sides.memory["textbook"] = before + peak
    cores = usable_cores()
    candidates = {count: Loop(step, partial(opened, count)) for count in (0, min(8, cores))}
    quick = Stopwatch(one.device, one.config.n_critic, 0.3)
    seconds = {}
    for count, loop in candidates.items():
        with loop.opened():
            quick.timed(loop, quick.warm_up)
            seconds[count] = quick.timed(loop, 4)
    best = min(seconds, key=lambda count: seconds[count])
    sides.steps["textbook"], sides.opened["textbook"] = step, partial(opened, best)


def _parts(name: str, work: Work, sides: _Sides, found: dict[str, Any]) -> None:
    """Count launches and waits of a step, and list its kernels."""
    report = work.report
    for side, step in sides.steps.items():
        with sides.opened[side]():
            for _ in range(2):
                step()
            waits, places = synchronisations(step)
            try:
                parts = parts_of_step(step)
            except RuntimeError as error:
                parts = {"error": str(error).splitlines()[0]}
        report.fact(f"{name}: {side}: synchronisations a step", {"count": waits, "at": places})
        if "busy_ms" in parts:
            parts["busy share"] = round(parts["busy_ms"] / found[side]["ms"], 3)
        top = parts.pop("top", {})
        report.fact(f"{name}: {side}: parts of a step", parts or "the profiler saw no kernels")
        if top:
            report.fact(f"{name}: {side}: kernels by time", top)
        if side != "default":
            continue
        report.check(
            f"{name}: no waiting in a step", waits == 0, {"a step": waits, "at": places}, 0
        )
        if "launches" in parts:
            launches = parts["launches"]
            report.check(f"{name}: launches a step", launches <= 3, launches, "<= 3")
    torch.cuda.empty_cache()

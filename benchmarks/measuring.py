"""Time, memory and arithmetic of training loops, on this machine."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.textbook import Textbook
from benchmarks.workloads import composed, reading, textbook, textbook_data, tool

# Batches that a DataLoader with two workers can have ready: two for each.
PREFETCHED = 4
# Sizes of the matrices by device type, and how many products are timed together.
SQUARES = {"cpu": ((1024, 2048), 1), "cuda": ((4096, 8192), 20)}
_MEMORY_STEPS = 5


@dataclass(frozen=True)
class Loop:
    """A training loop to be timed: one `step`, and what has to be open around steps."""

    step: Callable[[], object]
    opened: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Times:
    """Milliseconds a generator step, one number a block."""

    blocks: list[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.blocks)

    def __str__(self) -> str:
        return f"{self.median:.2f} ms ({min(self.blocks):.2f} to {max(self.blocks):.2f})"


class Stopwatch:
    """Times loops in turn, block by block, so that all meet the same hours of the machine."""

    def __init__(self, device: torch.device, n_critic: int, seconds: float) -> None:
        self.device = device
        self.seconds = seconds
        # So many that what was loaded before the block is used up, and a steady state reached.
        self.warm_up = max(2, -(-2 * PREFETCHED // n_critic))

    def times(self, loops: Mapping[str, Loop], repeats: int) -> dict[str, Times]:
        """The loops' own times, after a first block that is not counted but sets their lengths."""
        steps = {name: self._steps(loop) for name, loop in loops.items()}
        blocks: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(repeats):
            for name, loop in loops.items():
                blocks[name].append(self._block(loop, steps[name]))
        return {name: Times(times) for name, times in blocks.items()}

    def _steps(self, loop: Loop) -> int:
        """How many of them take about as long as a block shall."""
        with loop.opened():
            self.timed(loop, self.warm_up)
            steps = 1
            while (spent := self.timed(loop, steps)) < self.seconds / 4:
                steps *= 2
        return max(1, round(steps * self.seconds / spent))

    def _block(self, loop: Loop, steps: int) -> float:
        with loop.opened():
            self.timed(loop, self.warm_up)
            return 1e3 * self.timed(loop, steps) / steps

    def timed(self, loop: Loop, steps: int) -> float:
        """Seconds that so many steps take, waited for."""
        self._wait()
        start = time.perf_counter()
        for _ in range(steps):
            loop.step()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _NoModules:
    """In place of the counter's own, which cannot follow modules through a double backward."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Nothing is followed."""

    def __exit__(self, *error: object) -> None:
        """Nothing was."""


def flops_of_step(loop: Textbook) -> int:
    """Of the matrix products and convolutions that a generator step needs, backward included."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        for _ in range(loop.n_critic):
            loop.critic_update()
        # The textbook's gradients to the critic's weights are of no use here.
        loop.critic.requires_grad_(False)
        loop.generator_update()
    loop.critic.requires_grad_(True)
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The highest FLOP/s seen in products of square matrices."""
    sizes, products = SQUARES[device.type]
    best = 0.0
    for size in sizes:
        one = torch.randn(size, size, device=device).to(dtype)
        watch = Stopwatch(device, 1, 0.0)
        product = Loop(partial(torch.matmul, one, one), nullcontext)
        fastest = min(watch.timed(product, products) for _ in range(6))
        best = max(best, 2.0 * size**3 * products / fastest)
    return best


def peak_memory(words: Sequence[str], workers: int | None) -> float:
    """MiB that a process needed at most which trains a few steps in only one of the two ways.

    `workers` are those of the textbook loop, whose own memory is not counted; None is the tool. On
    CUDA it is the device's memory.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(_peak_memory, words, workers).result()


def _peak_memory(words: Sequence[str], workers: int | None) -> float:
    config, device = composed(words)
    if workers is None:
        one = tool(words)
        for _ in range(_MEMORY_STEPS):
            one.trainer.train_step()
        one.trainer.feed.close()
    else:
        data = textbook_data(config)
        loop = textbook(config, device, tuple(data[0][0].shape))
        with reading(loop, data, config.batch_size, workers):
            for _ in range(_MEMORY_STEPS):
                loop.step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _own_peak()


def _own_peak() -> float:
    try:
        # Linux hands ru_maxrss on from the parent; this starts afresh.
        status = Path("/proc/self/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def name_of(device: torch.device) -> str:
    """What the processor calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

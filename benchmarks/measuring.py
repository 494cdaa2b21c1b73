"""Measures time, memory and FLOPs of training loops on this machine."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.textbook import Textbook
from benchmarks.workloads import composed, reading, textbook, textbook_data, tool

# The number of batches that a DataLoader with two workers prefetches: two per worker.
PREFETCHED = 4
# Per device type: the sizes of the matrices, and the number of products timed together.
SQUARES = {"cpu": ((1024, 2048), 1), "cuda": ((4096, 8192), 20)}
_MEMORY_STEPS = 5


@dataclass(frozen=True)
class Loop:
    """A training loop to time: its `step`, and a context that must be open around the steps."""

    step: Callable[[], object]
    opened: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Times:
    """Milliseconds per generator step, one number for each block."""

    blocks: list[float]

    @property
    def median(self) -> float:
        """The median over the blocks."""
        return statistics.median(self.blocks)

    def __str__(self) -> str:
        return f"{self.median:.2f} ms ({min(self.blocks):.2f} to {max(self.blocks):.2f})"


class Stopwatch:
    """Times loops in alternating blocks, so that changes of the machine's load affect all."""

    def __init__(self, device: torch.device, n_critic: int, seconds: float) -> None:
        self.device = device
        self.seconds = seconds
        # More than the prefetched batches, so that a block measures the steady state.
        self.warm_up = max(2, -(-2 * PREFETCHED // n_critic))

    def times(self, loops: Mapping[str, Loop], repeats: int) -> dict[str, Times]:
        """Return the times of the loops. A first block only sets the number of steps."""
        steps = {name: self._steps(loop) for name, loop in loops.items()}
        blocks: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(repeats):
            for name, loop in loops.items():
                blocks[name].append(self._block(loop, steps[name]))
        return {name: Times(times) for name, times in blocks.items()}

    def _steps(self, loop: Loop) -> int:
        """Return the number of steps that take about as long as a block should."""
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
        """Return the seconds that `steps` steps take, including the wait for the device."""
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
    """Replaces the FLOP counter's module tracker, which fails in a double backward."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Do nothing: no modules are tracked."""

    def __exit__(self, *error: object) -> None:
        """Do nothing: no modules are tracked."""


def flops_of_step(loop: Textbook) -> int:
    """Return the FLOPs of the matrix products and convolutions of a generator step."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        for _ in range(loop.n_critic):
            loop.critic_update()
        # Exclude the critic's weight gradients that the textbook loop computes but does not use.
        loop.critic.requires_grad_(False)
        loop.generator_update()
    loop.critic.requires_grad_(True)
    return counter.get_total_flops()


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest FLOP/s measured in products of square matrices."""
    sizes, products = SQUARES[device.type]
    best = 0.0
    for size in sizes:
        one = torch.randn(size, size, device=device).to(dtype)
        watch = Stopwatch(device, 1, 0.0)
        product = Loop(partial(torch.matmul, one, one), nullcontext)
        fastest = min(watch.timed(product, products) for _ in range(6))
        best = max(best, 2.0 * size**3 * products / fastest)
    return best


def copy_rate(device: torch.device, size: int = 2**28) -> float:
    """Return the bytes per second of copies on the device: those read and those written."""
    one = torch.ones(size, dtype=torch.uint8, device=device)
    other = torch.empty_like(one)
    watch = Stopwatch(device, 1, 0.0)
    copies = Loop(partial(other.copy_, one), nullcontext)
    fastest = min(watch.timed(copies, 10) for _ in range(6))
    return 2.0 * size * 10 / fastest


@contextmanager
def tutorial_precision(device: torch.device) -> Iterator[None]:
    """Inside the block, convolutions and RNNs on CUDA may use TF32, as they do in torch by default.

    The tool turns that off for the whole process, and a tutorial's loop does not. Matrix products
    are fp32 in both. On the CPU nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    kinds = (cudnn.conv, cudnn.rnn)
    before, benchmark = [kind.fp32_precision for kind in kinds], cudnn.benchmark
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32"
        cudnn.benchmark = False
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
        cudnn.benchmark = benchmark


def peak_memory(words: Sequence[str], workers: int | None) -> float:
    """Return the peak MiB of a new process that trains a few steps with one of the two loops.

    `workers` is the number of workers of the textbook loop, whose memory is not counted; None means
    the tool. On CUDA, return the device's memory.
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
        one.trainer.inputs.feed.close()
    else:
        data = textbook_data(config)
        loop = textbook(config, device, tuple(data[0][0].shape))
        with tutorial_precision(device), reading(loop, data, config.batch_size, workers):
            for _ in range(_MEMORY_STEPS):
                loop.step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _own_peak()


def _own_peak() -> float:
    try:
        # On Linux, a child inherits its parent's ru_maxrss; this resets it.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def name_of(device: torch.device) -> str:
    """Return the name of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

"""Compute each random number of a run from (seed, stream, step, inner update).

No random state has to be saved: a run resumed at step k draws the same numbers as an uninterrupted
run, and sampling, evaluating or logging cannot change the training. On the CPU, the numbers come
from numpy's Philox, whose counter is set to the step and the inner update. On CUDA, they come from
the device's generator, seeded with 64 bits from Philox, so that nothing is copied to the device;
`acceleration.joint_draws` draws those of a training step.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor


class Stream(enum.IntEnum):
    """The purpose of a random number. Results depend on these values: never change or reuse one."""

    DATA_ORDER = 0
    POINTS = 1
    CRITIC_NOISE = 2
    GENERATOR_NOISE = 3
    PENALTY = 4
    SAMPLES = 5
    EVALUATION = 6
    GENERATOR_WEIGHTS = 7
    CRITIC_WEIGHTS = 8
    HELD_OUT = 9
    FLIPS = 10
    CLASSES = 11
    CUDA_STEP = 12


_thread_local = threading.local()

Rows = TypeVar("Rows", Tensor, np.ndarray)


@dataclass(frozen=True)
class Shard:
    """The rows of each batch that one process trains on: process `rank` of `world` processes.

    Every process draws the full batch and keeps its own rows, so that the training data do not
    depend on the number of processes.
    """

    rank: int = 0
    world: int = 1

    def take(self, rows: Rows) -> Rows:
        """Return this process's rows of a full batch; `world` must divide the batch size."""
        if self.world == 1:
            return rows
        size = len(rows) // self.world
        return rows[self.rank * size : (self.rank + 1) * size]


FULL_BATCH = Shard()


@dataclass(frozen=True)
class Draws:
    """The random numbers for one (seed, stream, step, inner); repeated draws are the same.

    `normal` and `uniform` draw numbers for the full batch and return the rows of `shard`.
    """

    seed: int
    stream: Stream
    step: int = 0
    inner: int = 0
    shard: Shard = FULL_BATCH

    def numpy(self) -> np.random.Generator:
        """Return a new numpy generator, set to the seed, stream, step and inner index."""
        philox = np.random.Philox(
            key=np.array([self.seed, self.stream], dtype=np.uint64),
            counter=np.array([0, 0, self.inner, self.step], dtype=np.uint64),
        )
        return np.random.Generator(philox)

    def normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return standard normal float32 numbers of the given shape, on the device."""
        return self._draw(np.random.Generator.standard_normal, torch.randn, shape, device)

    def uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return uniform float32 numbers in [0, 1) of the given shape, on the device."""
        return self._draw(np.random.Generator.random, torch.rand, shape, device)

    @contextmanager
    def global_seed(self) -> Iterator[None]:
        """Seed torch's CPU generator inside the block, for weight initialisers; then restore it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_64())
            yield

    def _draw(
        self,
        on_cpu: Callable[..., np.ndarray],
        on_device: Callable[..., Tensor],
        shape: Sequence[int],
        device: torch.device,
    ) -> Tensor:
        if self.shard.world > 1:
            shape = (self.shard.world * shape[0], *shape[1:])
        if device.type == "cuda":
            generator = torch.Generator(device).manual_seed(self.seed_64())
            drawn = on_device(tuple(shape), generator=generator, device=device)
        else:
            drawn = torch.from_numpy(on_cpu(self._thread_generator(), shape, dtype=np.float32))
            drawn = drawn.to(device)
        return self.shard.take(drawn)

    def _thread_generator(self) -> np.random.Generator:
        """Return this thread's generator, set to the seed, stream, step and inner index.

        All calls in a thread return the same generator, so use it before the next call. Creating a
        new Philox generator each time would read entropy from the system, which takes longer than
        drawing the numbers.
        """
        if not hasattr(_thread_local, "generator"):
            _thread_local.generator = self.numpy()
        _thread_local.generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": (0, 0, self.inner, self.step), "key": (self.seed, self.stream)},
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return _thread_local.generator

    def seed_64(self) -> int:
        """Return a seed of 63 bits for a generator of torch."""
        return int(self._thread_generator().bit_generator.random_raw()) >> 1

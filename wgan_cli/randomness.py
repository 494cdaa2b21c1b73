"""Every random number of a run as a function of (seed, stream, step, inner update).

Nothing keeps a random state: a run resumed at step k draws what the uninterrupted run draws, and
looking at a run (sampling, evaluating, logging) cannot change it. On the CPU the numbers come from
numpy's Philox, whose 256-bit counter holds the position itself; on CUDA from the device's own
generator under a 64-bit seed that Philox derives, so nothing is copied to the device.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor


class Stream(enum.IntEnum):
    """What a number is for. The values are part of every result: never change or reuse one."""

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


_mine = threading.local()

Rows = TypeVar("Rows", Tensor, np.ndarray)


@dataclass(frozen=True)
class Share:
    """The rows of every batch that one of `world` processes works on; all of them, where it is one.

    Processes draw whole batches and keep their rows, so that what a run is trained on does not
    depend on how many there are.
    """

    rank: int = 0
    world: int = 1

    def of(self, rows: Rows) -> Rows:
        """Its rows of a whole batch, whose size `world` divides."""
        if self.world == 1:
            return rows
        size = len(rows) // self.world
        return rows[self.rank * size : (self.rank + 1) * size]

    def whole(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the whole batch of which it has this one's."""
        return tuple(shape) if self.world == 1 else (self.world * shape[0], *shape[1:])


WHOLE = Share()


@dataclass(frozen=True)
class Draws:
    """The random numbers of one place in a run; drawing twice gives the same numbers twice.

    With a `share`, `normal` and `uniform` give its rows of what is drawn for the whole batch.
    """

    seed: int
    stream: Stream
    step: int = 0
    inner: int = 0
    share: Share = WHOLE

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator at this place."""
        return np.random.Generator(self._philox())

    def normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Standard normal float32 numbers of this shape, on the device."""
        whole = self.share.whole(shape)
        if device.type == "cpu":
            drawn = torch.from_numpy(self._here().standard_normal(whole, dtype=np.float32))
        else:
            drawn = torch.randn(whole, generator=self._on(device), device=device)
        return self.share.of(drawn)

    def uniform(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Uniform float32 numbers in [0, 1) of this shape, on the device."""
        whole = self.share.whole(shape)
        if device.type == "cpu":
            drawn = torch.from_numpy(self._here().random(whole, dtype=np.float32))
        else:
            drawn = torch.rand(whole, generator=self._on(device), device=device)
        return self.share.of(drawn)

    @contextmanager
    def global_seed(self) -> Iterator[None]:
        """Inside, torch's own CPU generator starts here (for initialisers); outside, as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._hash())
            yield

    def _here(self) -> np.random.Generator:
        """A generator that the thread keeps, brought to this place: for one draw at once.

        Making a Philox asks the system for entropy, which takes longer than drawing noise.
        """
        if not hasattr(_mine, "generator"):
            _mine.generator = self.numpy()
        _mine.generator.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": (0, 0, self.inner, self.step), "key": (self.seed, self.stream)},
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        return _mine.generator

    def _philox(self) -> np.random.Philox:
        return np.random.Philox(
            key=np.array([self.seed, self.stream], dtype=np.uint64),
            counter=np.array([0, 0, self.inner, self.step], dtype=np.uint64),
        )

    def _hash(self) -> int:
        return int(self._philox().random_raw()) >> 1

    def _on(self, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(self._hash())

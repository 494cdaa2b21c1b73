"""Draw the random numbers of all critic updates of a step with one kernel per purpose.

On CUDA each draw launches a kernel. A step draws its numbers from one generator, so that a CUDA
graph can contain the draws: the generator only has to be seeded anew before each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wgan_cli.randomness import FULL_BATCH, Draws, Shard, Stream


class JointDraws:
    """The random numbers of one training step after another, as a function of (seed, step).

    For each stream and shape, the first request of a step draws the numbers of all critic updates:
    a block (updates, *shape). Blocks are drawn in the order of these first requests, so a step
    gives the same numbers whether it begins at its first critic update or is resumed later, if the
    generator update's numbers are requested first. With several ranks, each draws the full batch
    and keeps the rows of its `shard`.
    """

    def __init__(self, seed: int, device: torch.device, shard: Shard = FULL_BATCH) -> None:
        self.generator = torch.Generator(device)
        self.device = device
        self._seed, self._shard = seed, shard
        self._blocks: dict[Any, Tensor] = {}
        self._step = self._updates = 0

    def begin(self, step: int, updates: int) -> None:
        """Start the draws of step `step`, which has `updates` critic updates."""
        self._step, self._updates = step, updates
        self._blocks.clear()
        self.generator.manual_seed(Draws(self._seed, Stream.CUDA_STEP, step).seed_64())

    def critic(self, stream: Stream, inner: int) -> Draws:
        """Return the draws of critic update `inner`."""
        drawn = Draws(self._seed, stream, self._step, inner, self._shard)
        return _FromBlocks(**vars(drawn), joint=self, updates=self._updates)

    def generator_update(self, stream: Stream) -> Draws:
        """Return the draws of the generator update."""
        drawn = Draws(self._seed, stream, self._step, 0, self._shard)
        return _FromBlocks(**vars(drawn), joint=self, updates=1)

    def block(
        self, kind: Callable[..., Tensor], stream: Stream, updates: int, shape: Sequence[int]
    ) -> Tensor:
        """Return numbers (updates, *shape) of this step; `kind` is `torch.randn` or `torch.rand`.

        `shape` is that of this process's rows.
        """
        key = kind, stream, updates, tuple(shape)
        if key not in self._blocks:
            world, rank = self._shard.world, self._shard.rank
            full = updates, world * shape[0], *shape[1:]
            drawn = kind(full, generator=self.generator, device=self.device)
            self._blocks[key] = drawn[:, rank * shape[0] : (rank + 1) * shape[0]]
        return self._blocks[key]


@dataclass(frozen=True)
class _FromBlocks(Draws):
    """Draws whose numbers come from the blocks of a `JointDraws`."""

    joint: JointDraws | None = None
    updates: int = 1

    def numpy(self) -> Any:
        """Return a new numpy generator. Raises RuntimeError while a CUDA graph is recorded."""
        _refuse_in_a_recording()
        return super().numpy()

    def seed_64(self) -> int:
        """Return a seed for a generator. Raises RuntimeError while a CUDA graph is recorded."""
        _refuse_in_a_recording()
        return super().seed_64()

    def _draw(
        self,
        on_cpu: Callable[..., Any],
        on_device: Callable[..., Tensor],
        shape: Sequence[int],
        device: torch.device,
    ) -> Tensor:
        assert self.joint is not None
        if device.type != self.joint.device.type:
            _refuse_in_a_recording()
            return super()._draw(on_cpu, on_device, shape, device)
        return self.joint.block(on_device, self.stream, self.updates, shape)[self.inner]


def _refuse_in_a_recording() -> None:
    """Raise RuntimeError if a CUDA graph is recorded: it would repeat the same numbers for ever."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("a constraint draws random numbers by numpy, which runs on the CPU")

"""Feeds return the batch of real samples for each critic update, as floats on the device.

A feed has no state to save: the batch of critic update u depends only on (seed, u), so a run can
resume at any step, even within an epoch. With a `shard`, a feed returns only the rows of this
process.

On CUDA, feeds are staged: what the host chooses for many updates (indices of samples, points or
images) is copied to the device at once, and the device makes the batches from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from wgan_cli.randomness import FULL_BATCH, Draws, Shard, Stream

# The most memory that the data staged by one copy take, unless one step needs more.
STAGED_BYTES = 2**23


class Batch(NamedTuple):
    """Float samples (batch, *sample_shape), images in [-1, 1], and int64 classes (batch,).

    `labels` is None if the data have no classes. Both tensors are on the device.
    """

    samples: Tensor
    labels: Tensor | None = None


class Feed(Protocol):
    """The interface of feeds: returns the training batch of each critic update."""

    def batch(self, update: int) -> Batch:
        """Return the batch of critic update `update`, counted from 0 over the whole run."""

    def close(self) -> None:
        """End the reader processes, if any. Call this after the last batch."""
        return


@runtime_checkable
class StagedFeed(Feed, Protocol):
    """A feed that can also copy its data to the device for many critic updates at once."""

    @property
    def most_staged(self) -> int:
        """The largest number of updates for which one copy to the device should hold the data."""

    def buffers(self, updates: int) -> tuple[Tensor, ...]:
        """Return empty tensors on the device with space for the data of `updates` updates.

        The first dimension of each tensor counts the updates.
        """

    def stage(self, updates: range, buffers: Sequence[Tensor]) -> None:
        """Copy the data of these updates to the first rows of `buffers`, without waiting."""

    def batches(self, rows: Sequence[Tensor], flips: Callable[[], Tensor]) -> list[Batch]:
        """Return one batch per update from rows of the buffers, computed on the device only.

        `flips()` returns uniform numbers (updates, batch) in [0, 1), which decide what is mirrored.
        """


def to_floats(samples: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1], and points as float32 without scaling."""
    if samples.dtype == torch.uint8:
        return samples.float().div_(127.5).sub_(1)
    return samples.float()


def to_bytes(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8, rounded to nearest: the inverse of `to_floats`."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def random_flip(images: Tensor, seed: int, update: int, shard: Shard) -> Tensor:
    """Return images (n, c, h, w), each mirrored left to right with probability 1/2."""
    draws = Draws(seed, Stream.FLIPS, update, shard=shard)
    return mirrored(images, draws.uniform((len(images),), images.device))


def mirrored(images: Tensor, uniform: Tensor) -> Tensor:
    """Return images (n, c, h, w), mirrored left to right where `uniform` (n,) is below 1/2."""
    return torch.where((uniform < 0.5)[:, None, None, None], images.flip(3), images)


@dataclass(eq=False)
class EpochOrder:
    """Chooses the samples of each critic update, from one permutation per (seed, epoch).

    No sample is dropped: the last batch of an epoch is filled with samples of the next epoch.
    """

    size: int
    batch_size: int
    seed: int
    shard: Shard = FULL_BATCH
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False)

    def indices(self, update: int) -> Tensor:
        """Return the sample indices (batch,) of critic update `update`, on the CPU."""
        epoch, start = divmod(update * self.batch_size, self.size)
        chosen = self._order(epoch)[start : start + self.batch_size]
        missing = self.batch_size - len(chosen)
        if missing:
            chosen = torch.cat([chosen, self._order(epoch + 1)[:missing]])
        return self.shard.take(chosen)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            draws = Draws(self.seed, Stream.DATA_ORDER, epoch)
            order = torch.from_numpy(draws.numpy().permutation(self.size))
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order
        return self._orders[epoch]


@dataclass(eq=False)
class ResidentFeed(StagedFeed):
    """A feed from samples that are kept on the device, in the order of an `EpochOrder`."""

    samples: Tensor
    batch_size: int
    seed: int
    device: torch.device
    shard: Shard = FULL_BATCH
    labels: Tensor | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        self.samples = self.samples.to(self.device)
        self.labels = None if self.labels is None else self.labels.to(self.device)
        self.order = EpochOrder(len(self.samples), self.batch_size, self.seed, self.shard)

    def batch(self, update: int) -> Batch:
        """Return the batch of critic update `update`, counted from 0 over the whole run."""
        chosen = self.order.indices(update).to(self.device)
        samples = self.samples[chosen]
        if self.flip:
            samples = random_flip(samples, self.seed, update, self.shard)
        return Batch(to_floats(samples), None if self.labels is None else self.labels[chosen])

    @property
    def most_staged(self) -> int:
        """The number of updates whose indices fill `STAGED_BYTES`."""
        return max(1, STAGED_BYTES // (8 * self.batch_size))

    def buffers(self, updates: int) -> tuple[Tensor, ...]:
        """Return a tensor for the sample indices of each update."""
        shape = updates, self.batch_size // self.shard.world
        return (torch.zeros(shape, dtype=torch.int64, device=self.device),)

    def stage(self, updates: range, buffers: Sequence[Tensor]) -> None:
        """Copy the sample indices of these updates."""
        copy_ahead(torch.stack([self.order.indices(update) for update in updates]), buffers[0])

    def batches(self, rows: Sequence[Tensor], flips: Callable[[], Tensor]) -> list[Batch]:
        """Return one batch per row of sample indices."""
        chosen = rows[0].flatten()
        return joint_batches(
            self.samples.index_select(0, chosen),
            None if self.labels is None else self.labels.index_select(0, chosen),
            len(rows[0]),
            flips if self.flip else None,
        )


@dataclass(frozen=True, eq=False)
class EndlessFeed(StagedFeed):
    """A feed that draws new points for every update, as a function of (seed, update)."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    batch_size: int
    seed: int
    device: torch.device
    shard: Shard = FULL_BATCH

    def batch(self, update: int) -> Batch:
        """Return the points of critic update `update`, counted from 0 over the whole run."""
        return Batch(self._points(update).to(self.device))

    @property
    def most_staged(self) -> int:
        """The number of updates whose points fill `STAGED_BYTES`."""
        return max(1, STAGED_BYTES // self._points(0).nbytes)

    def buffers(self, updates: int) -> tuple[Tensor, ...]:
        """Return a tensor for the points of each update."""
        points = self._points(0)
        return (torch.zeros(updates, *points.shape, dtype=points.dtype, device=self.device),)

    def stage(self, updates: range, buffers: Sequence[Tensor]) -> None:
        """Draw and copy the points of these updates."""
        copy_ahead(torch.stack([self._points(update) for update in updates]), buffers[0])

    def batches(self, rows: Sequence[Tensor], flips: Callable[[], Tensor]) -> list[Batch]:
        """Return the points of each row."""
        return [Batch(points) for points in rows[0].unbind()]

    def _points(self, update: int) -> Tensor:
        rng = Draws(self.seed, Stream.POINTS, update).numpy()
        return torch.from_numpy(self.shard.take(self.draw(rng, self.batch_size)))


def copy_ahead(rows: Tensor, buffer: Tensor) -> None:
    """Copy CPU rows to the first rows of a buffer. On CUDA, the host does not wait for the copy."""
    if buffer.is_cuda:
        # A copy from other memory than pinned memory waits for the device.
        rows = rows.pin_memory()
    buffer[: len(rows)].copy_(rows, non_blocking=True)


def joint_batches(
    samples: Tensor, labels: Tensor | None, updates: int, flips: Callable[[], Tensor] | None
) -> list[Batch]:
    """Convert the samples (updates * batch, *shape) of several updates; return one batch for each.

    With `flips`, samples are images, mirrored as in `StagedFeed.batches`.
    """
    if flips is not None:
        samples = mirrored(samples, flips().flatten())
    floats = to_floats(samples).chunk(updates)
    classes = [None] * updates if labels is None else labels.chunk(updates)
    return [Batch(*pair) for pair in zip(floats, classes, strict=True)]

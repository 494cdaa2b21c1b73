"""Feeds return the batch of real samples for each critic update, as floats on the device.

A feed has no state to save: the batch of critic update u depends only on (seed, u), so a run can
resume at any step, even within an epoch. With a `shard`, a feed returns only the rows of this
process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from wgan_cli.randomness import FULL_BATCH, Draws, Shard, Stream


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
    mirrored = draws.uniform((len(images),), images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@dataclass(eq=False)
class EpochOrder:
    """Chooses the samples of each critic update, from one permutation per (seed, epoch).

    No sample is dropped: the last batch of an epoch is filled with samples of the next epoch.
    """

    size: int
    batch_size: int
    seed: int
    device: torch.device
    shard: Shard = FULL_BATCH
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False)

    def indices(self, update: int) -> Tensor:
        """Return the sample indices (batch,) of critic update `update`, counted from 0."""
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
            self._orders[epoch] = order.to(self.device)
        return self._orders[epoch]


@dataclass(eq=False)
class ResidentFeed(Feed):
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
        self.order = EpochOrder(
            len(self.samples), self.batch_size, self.seed, self.device, self.shard
        )

    def batch(self, update: int) -> Batch:
        """Return the batch of critic update `update`, counted from 0 over the whole run."""
        chosen = self.order.indices(update)
        samples = self.samples[chosen]
        if self.flip:
            samples = random_flip(samples, self.seed, update, self.shard)
        return Batch(to_floats(samples), None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True, eq=False)
class EndlessFeed(Feed):
    """A feed that draws new points for every update, as a function of (seed, update)."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    batch_size: int
    seed: int
    device: torch.device
    shard: Shard = FULL_BATCH

    def batch(self, update: int) -> Batch:
        """Return the points of critic update `update`, counted from 0 over the whole run."""
        rng = Draws(self.seed, Stream.POINTS, update).numpy()
        points = self.shard.take(self.draw(rng, self.batch_size))
        return Batch(torch.from_numpy(points).to(self.device))

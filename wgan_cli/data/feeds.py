"""Feeds: the real batch of every critic update, as floats on the device.

A feed keeps no position. The batch of critic update u is a function of (seed, u), so a run can go
on from any step, mid-epoch too. With a `share` of a run's processes it gives that one's rows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from wgan_cli.randomness import WHOLE, Draws, Share, Stream


class Batch(NamedTuple):
    """Float samples (batch, *sample shape), images in [-1, 1], and their classes (batch,) int64.

    `labels` is None where the data have none. Both are on the device.
    """

    samples: Tensor
    labels: Tensor | None = None


class Feed(Protocol):
    """Training batches by the number of the critic update that uses them."""

    def batch(self, update: int) -> Batch:
        """The batch of critic update `update`, counted from 0 over the whole run."""

    def close(self) -> None:
        """Let go of what reads for it, as processes: no more batches are asked for."""


def as_floats(samples: Tensor) -> Tensor:
    """What the networks see: uint8 images become float32 in [-1, 1], points stay as they are."""
    if samples.dtype == torch.uint8:
        return samples.float().div_(127.5).sub_(1)
    return samples.float()


def as_bytes(images: Tensor) -> Tensor:
    """The inverse for images: floats in [-1, 1] to uint8, rounded to the nearest."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def flipped(images: Tensor, draws: Draws) -> Tensor:
    """Images (n, c, h, w), about half of them mirrored left to right."""
    mirrored = draws.uniform((len(images),), images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


class EpochOrder:
    """Which samples each critic update gets: a fresh permutation every epoch, (seed, epoch)'s.

    Epochs follow each other without a gap: a batch that reaches the end of one is filled up from
    the next, so no sample is dropped.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        share: Share = WHOLE,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.share = share
        self._orders: dict[int, Tensor] = {}

    def indices(self, update: int) -> Tensor:
        """The samples of critic update `update`, counted from 0 over the whole run: (batch,)."""
        epoch, start = divmod(update * self.batch_size, self.size)
        chosen = self._order(epoch)[start : start + self.batch_size]
        missing = self.batch_size - len(chosen)
        if missing:
            chosen = torch.cat([chosen, self._order(epoch + 1)[:missing]])
        return self.share.of(chosen)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            draws = Draws(self.seed, Stream.DATA_ORDER, epoch)
            order = torch.from_numpy(draws.numpy().permutation(self.size))
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = order.to(self.device)
        return self._orders[epoch]


class ResidentFeed:
    """A data set that lives on the device, read in an `EpochOrder`."""

    def __init__(
        self,
        samples: Tensor,
        batch_size: int,
        seed: int,
        device: torch.device,
        share: Share = WHOLE,
        *,
        labels: Tensor | None = None,
        flip: bool = False,
    ) -> None:
        self.samples = samples.to(device)
        self.labels = None if labels is None else labels.to(device)
        self.order = EpochOrder(len(samples), batch_size, seed, device, share)
        self.seed = seed
        self.share = share
        self.flip = flip

    def batch(self, update: int) -> Batch:
        """The batch of critic update `update`, counted from 0 over the whole run."""
        chosen = self.order.indices(update)
        samples = self.samples[chosen]
        if self.flip:
            draws = Draws(self.seed, Stream.FLIPS, update, share=self.share)
            samples = flipped(samples, draws)
        return Batch(as_floats(samples), None if self.labels is None else self.labels[chosen])

    def close(self) -> None:
        """Nothing reads for it."""


class EndlessFeed:
    """Fresh points of a distribution in every update, a function of (seed, update)."""

    def __init__(
        self,
        draw: Callable[[np.random.Generator, int], np.ndarray],
        batch_size: int,
        seed: int,
        device: torch.device,
        share: Share = WHOLE,
    ) -> None:
        self.draw = draw
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.share = share

    def batch(self, update: int) -> Batch:
        """The points of critic update `update`, counted from 0 over the whole run."""
        rng = Draws(self.seed, Stream.POINTS, update).numpy()
        points = self.share.of(self.draw(rng, self.batch_size))
        return Batch(torch.from_numpy(points).to(self.device))

    def close(self) -> None:
        """Nothing reads for it."""

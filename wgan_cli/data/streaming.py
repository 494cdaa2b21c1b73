"""Data sets of image files too many for memory: read while they are trained on."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.checks import check_batch_size, check_count, check_samples
from wgan_cli.data.dataset import FIXED_SEED, Dataset, Labels, TensorDataset
from wgan_cli.data.encoded import Faults, ImagePart
from wgan_cli.data.feeds import Batch, EpochOrder, Feed, as_floats, flipped
from wgan_cli.data.reader_processes import Reads, load, usual_workers
from wgan_cli.randomness import WHOLE, Draws, Share, Stream

log = logging.getLogger(__name__)

# Up to so many GiB a decoded training part is held in memory where nothing is said.
IN_MEMORY_GIB = 2
MOST_HELD_OUT = 10_000


class StreamingFeed:
    """The batches that a `ResidentFeed` of the same images gives, read ahead by processes.

    Asked for any update but the next, it starts reading there. The processes end with `close`, or
    with the feed.
    """

    def __init__(
        self,
        part: ImagePart,
        batch_size: int,
        seed: int,
        device: torch.device,
        share: Share = WHOLE,
        *,
        faults: Faults,
        workers: int,
        flip: bool = False,
    ) -> None:
        self.part = part
        self.labels = None if part.labels is None else torch.from_numpy(part.labels)
        self.order = EpochOrder(len(part), batch_size, seed, torch.device("cpu"), share)
        self.seed = seed
        self.share = share
        self.device = device
        self.faults = faults
        self.workers = workers
        self.flip = flip
        self._reads: Reads | None = None
        self._next = 0

    def batch(self, update: int) -> Batch:
        """The batch of critic update `update`. Raises `DataError` where it cannot be read."""
        if self._reads is None or update != self._next:
            self._start(update)
        assert self._reads is not None
        samples = next(self._reads).to(self.device, non_blocking=True)
        self._next = update + 1
        if self.flip:
            draws = Draws(self.seed, Stream.FLIPS, update, share=self.share)
            samples = flipped(samples, draws)
        if self.labels is None:
            return Batch(as_floats(samples))
        labels = self.labels[self.order.indices(update)]
        return Batch(as_floats(samples), labels.to(self.device, non_blocking=True))

    def close(self) -> None:
        """End the processes. A batch asked for later starts others."""
        if self._reads is not None:
            self._reads.close()
            self._reads = None

    def _start(self, update: int) -> None:
        self.close()
        pin = self.device.type == "cuda"
        self._reads = Reads(
            self.part, _from(self.order, update), self.faults, self.workers, pin=pin
        )


def _from(order: EpochOrder, update: int) -> Iterator[list[int]]:
    return (order.indices(later).tolist() for later in itertools.count(update))


@dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A data set whose training part stays in its files; the held-out part is in memory.

    What is computed from it is what a `TensorDataset` of the same images would give. Raises
    `DataError` when a part is too small.
    """

    name: str
    training: ImagePart
    held_out: Tensor
    labels: Labels | None
    faults: Faults
    workers: int
    flip: bool = False
    modes: None = None

    def __post_init__(self) -> None:
        check_count(self.name, "training", len(self.training))
        check_count(self.name, "held-out", len(self.held_out))
        check_samples(self.name, "held-out", self.held_out)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.training.shape

    def feed(self, batch_size: int, seed: int, device: torch.device, share: Share = WHOLE) -> Feed:
        """Batches in an order that (seed, epoch) alone decides."""
        check_batch_size(self.name, batch_size, len(self.training))
        return StreamingFeed(
            self.training,
            batch_size,
            seed,
            device,
            share,
            faults=self.faults,
            workers=self.workers,
            flip=self.flip,
        )

    @property
    def training_size(self) -> int:
        """The size of the training part."""
        return len(self.training)

    def training_sample(self, chosen: Tensor) -> Tensor:
        """The training images at these places, read now."""
        return load(self.training, chosen.tolist(), self.faults, self.workers, "of training")


def encoded_images(
    name: str,
    training: ImagePart,
    held_out: ImagePart,
    faults: Faults,
    *,
    flip: bool,
    in_memory: bool | None,
    workers: int | None,
) -> Dataset:
    """Training and held-out images as a data set, `in_memory` or streamed.

    `in_memory` null holds a training part of up to `IN_MEMORY_GIB` in memory, `workers` null takes
    `usual_workers`; neither changes what is trained. Of the held-out part at most `MOST_HELD_OUT`
    images are kept, chosen and ordered by a fixed permutation. Raises `DataError`.
    """
    for part, images in (("training", training), ("held-out", held_out)):
        check_count(name, part, len(images))
    processes = usual_workers() if workers is None else workers
    # Steps 0 and 1 of the stream decide other things of data sets.
    order = Draws(FIXED_SEED, Stream.HELD_OUT, step=2).numpy().permutation(len(held_out))
    order = order[:MOST_HELD_OUT]
    kept = load(held_out, order.tolist(), faults, processes, "held out")
    labels = None
    if training.labels is not None and held_out.labels is not None:
        labels = Labels(torch.from_numpy(training.labels), torch.from_numpy(held_out.labels[order]))
    gib = len(training) * int(np.prod(training.shape)) / 2**30
    if in_memory is None:
        in_memory = gib <= IN_MEMORY_GIB
    if not in_memory:
        log.info("%s: %d training images (%.2g GiB) are streamed.", name, len(training), gib)
        return StreamedDataset(name, training, kept, labels, faults, processes, flip)
    everything = load(training, range(len(training)), faults, processes, "of training")
    return TensorDataset(name, everything, kept, labels, flip=flip)

"""Data sets of images that may not fit in memory: read from their files during training."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.dataset import (
    FIXED_SEED,
    Dataset,
    Labels,
    TensorDataset,
    check_batch_size,
    check_count,
    check_samples,
)
from wgan_cli.data.encoded import ImagePart
from wgan_cli.data.feeds import (
    Batch,
    EpochOrder,
    Feed,
    StagedFeed,
    copy_ahead,
    joint_batches,
    random_flip,
    to_floats,
)
from wgan_cli.data.reader_processes import ParallelReader, default_workers, read_images
from wgan_cli.randomness import FULL_BATCH, Draws, Shard, Stream

log = logging.getLogger(__name__)

# By default, a training part is held in memory if its decoded images have at most this size.
IN_MEMORY_GIB = 2
MAX_HELD_OUT = 10_000


@dataclass(eq=False)
class StreamingFeed(StagedFeed):
    """Returns the same batches as a `ResidentFeed`, but reader processes read the images ahead.

    Request updates in order: any other update ends the processes and starts new ones. The processes
    also end on `close` and when the feed is garbage-collected.
    """

    part: ImagePart
    batch_size: int
    seed: int
    device: torch.device
    shard: Shard = FULL_BATCH
    workers: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        self.order = EpochOrder(len(self.part), self.batch_size, self.seed, self.shard)
        self._labels = None if self.part.labels is None else torch.from_numpy(self.part.labels)
        self._reader: ParallelReader | None = None
        self._next = 0

    def batch(self, update: int) -> Batch:
        """Return the batch of critic update `update`. Raises `DataError` if reading fails."""
        samples = self._read(update).to(self.device)
        if self.flip:
            samples = random_flip(samples, self.seed, update, self.shard)
        if self._labels is None:
            return Batch(to_floats(samples))
        labels = self._labels[self.order.indices(update)]
        return Batch(to_floats(samples), labels.to(self.device))

    @property
    def most_staged(self) -> int:
        """Return 1: images are not read further ahead than the step that needs them."""
        return 1

    def buffers(self, updates: int) -> tuple[Tensor, ...]:
        """Return a tensor for the images of each update, and one for their classes if any."""
        shape = updates, self.batch_size // self.shard.world
        images = torch.zeros(*shape, *self.part.shape, dtype=torch.uint8, device=self.device)
        if self._labels is None:
            return (images,)
        return images, torch.zeros(shape, dtype=torch.int64, device=self.device)

    def stage(self, updates: range, buffers: Sequence[Tensor]) -> None:
        """Read and copy the images and classes of these updates."""
        for row, update in enumerate(updates):
            # The reader has pinned the images.
            buffers[0][row].copy_(self._read(update), non_blocking=True)
        if self._labels is not None:
            labels = [self._labels[self.order.indices(update)] for update in updates]
            copy_ahead(torch.stack(labels), buffers[1])

    def batches(self, rows: Sequence[Tensor], flips: Callable[[], Tensor]) -> list[Batch]:
        """Return one batch per row of images."""
        images, *labels = (row.flatten(0, 1) for row in rows)
        classes = labels[0] if labels else None
        return joint_batches(images, classes, len(rows[0]), flips if self.flip else None)

    def _read(self, update: int) -> Tensor:
        """Return the images of critic update `update` as bytes, on the CPU."""
        if self._reader is None or update != self._next:
            self.close()
            # The reader must not refer to `self`: a reference cycle would keep its processes alive.
            order = self.order
            positions = (order.indices(later).tolist() for later in itertools.count(update))
            pin = self.device.type == "cuda"
            self._reader = ParallelReader(self.part, positions, self.workers, pin=pin)
        images = next(self._reader)
        self._next = update + 1
        return images

    def close(self) -> None:
        """End the processes. A later call of `batch` starts new ones."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


@dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A data set whose training part is read during training; the held-out part is in memory.

    Its batches and samples equal those of a `TensorDataset` of the same images.
    """

    name: str
    training: ImagePart
    held_out: Tensor
    labels: Labels | None
    workers: int
    flip: bool = False
    modes: None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.training.shape

    def feed(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = FULL_BATCH
    ) -> Feed:
        """Return a feed whose order of samples depends only on (seed, epoch)."""
        check_batch_size(self.name, batch_size, len(self.training))
        return StreamingFeed(
            self.training, batch_size, seed, device, shard, self.workers, self.flip
        )

    @property
    def training_size(self) -> int:
        """The number of training images."""
        return len(self.training)

    def training_sample(self, chosen: Tensor) -> Tensor:
        """Return the training images at the indices `chosen` (n,)."""
        return read_images(self.training, chosen.tolist(), self.workers, "training")


def encoded_images(
    training: ImagePart,
    held_out: ImagePart,
    *,
    flip: bool,
    in_memory: bool | None,
    workers: int | None,
) -> Dataset:
    """Return a data set whose training part is either in memory or streamed.

    If `in_memory` is None, a training part of up to `IN_MEMORY_GIB` is held in memory. If `workers`
    is None, there are `default_workers()` reader processes. Neither option changes the batches.
    A fixed permutation chooses at most `MAX_HELD_OUT` held-out images. Raises `DataError`.
    """
    name = training.faults.name
    for part, images in (("training", training), ("held-out", held_out)):
        check_count(name, part, len(images))
    processes = default_workers() if workers is None else workers
    # Steps 0 and 1 of the stream are used by `dataset.split` and `stacked`.
    order = Draws(FIXED_SEED, Stream.HELD_OUT, step=2).numpy().permutation(len(held_out))
    order = order[:MAX_HELD_OUT]
    kept = read_images(held_out, order.tolist(), processes, "held-out")
    labels = None
    if training.labels is not None and held_out.labels is not None:
        labels = Labels(torch.from_numpy(training.labels), torch.from_numpy(held_out.labels[order]))
    gib = len(training) * int(np.prod(training.shape)) / 2**30
    if in_memory is None:
        in_memory = gib <= IN_MEMORY_GIB
    if not in_memory:
        check_samples(name, "held-out", kept)
        log.info("%s: %d training images (%.2g GiB) are streamed.", name, len(training), gib)
        return StreamedDataset(name, training, kept, labels, processes, flip)
    images_in_memory = read_images(training, range(len(training)), processes, "training")
    return TensorDataset(name, images_in_memory, kept, labels, flip=flip)

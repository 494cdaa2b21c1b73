"""Data sets: their interface, classes for data in memory and endless data, and the split.

Images are uint8 (count, channels, height, width) until they are on the device, where `to_floats`
maps them to [-1, 1]. Points are float32 (count, coordinates).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.feeds import EndlessFeed, Feed, ResidentFeed
from wgan_cli.errors import ConfigError, DataError
from wgan_cli.randomness import FULL_BATCH, Draws, Shard, Stream

# A run's seed must not change the split or the held-out points, so they use this fixed seed.
FIXED_SEED = 0


@dataclass(frozen=True)
class Labels:
    """The class of every sample, int64 from 0, in the order of the samples.

    If `channel_classes` is set, each channel of an image has its own class, a number below
    `channel_classes`. The label is then the number with these classes as its digits in base
    `channel_classes`; the first channel is the most significant digit.
    """

    train: Tensor
    held_out: Tensor
    channel_classes: int | None = None


class Dataset(Protocol):
    """The interface through which training and evaluation use a data set."""

    @property
    def name(self) -> str:
        """The name in the config and in messages."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of a sample: (channels, height, width) or (coordinates,)."""

    @property
    def held_out(self) -> Tensor:
        """Samples not used in training: uint8 images or float32 points, (n, *sample_shape)."""

    @property
    def labels(self) -> Labels | None:
        """The classes of the samples; None for data without classes."""

    @property
    def modes(self) -> Modes | None:
        """The Gaussians of a mixture; None for other data."""

    def feed(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = FULL_BATCH
    ) -> Feed:
        """Return a feed of training batches as floats on the device; `shard` selects their rows.

        Raises `DataError` if a batch is larger than the training part.
        """

    @property
    def training_size(self) -> int | None:
        """The number of training samples; None for an endless data set."""

    def training_sample(self, chosen: Tensor) -> Tensor:
        """Return the training samples at the indices `chosen` (n,), in the format of `held_out`.

        An endless data set returns n points, the same in every run and different from `held_out`.
        """


@dataclass(frozen=True)
class TensorDataset:
    """A data set in memory: images uint8 (n, c, h, w), or points float32 (n, coordinates).

    With `flip`, each training image is mirrored with probability 1/2. Raises `DataError` if a part
    is too small or malformed.
    """

    name: str
    train: Tensor
    held_out: Tensor
    labels: Labels | None = None
    modes: Modes | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        for part, samples in (("training", self.train), ("held-out", self.held_out)):
            check_count(self.name, part, len(samples))
        if self.train.shape[1:] != self.held_out.shape[1:]:
            raise DataError(
                f"{self.name}: training samples have shape {tuple(self.train.shape[1:])}, held-out"
                f" ones {tuple(self.held_out.shape[1:])}."
            )
        for part, samples in (("training", self.train), ("held-out", self.held_out)):
            check_samples(self.name, part, samples)
        if self.labels is not None:
            _check_labels(self.name, "training", self.labels.train, len(self.train))
            _check_labels(self.name, "held-out", self.labels.held_out, len(self.held_out))

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.shape[1:])

    def feed(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = FULL_BATCH
    ) -> Feed:
        """Return a feed whose order of samples depends only on (seed, epoch)."""
        check_batch_size(self.name, batch_size, len(self.train))
        labels = None if self.labels is None else self.labels.train
        return ResidentFeed(
            self.train, batch_size, seed, device, shard, labels=labels, flip=self.flip
        )

    @property
    def training_size(self) -> int:
        """The number of training samples."""
        return len(self.train)

    def training_sample(self, chosen: Tensor) -> Tensor:
        """Return the training samples at the indices `chosen` (n,)."""
        return self.train[chosen]


@dataclass(frozen=True, eq=False)
class Modes:
    """A mixture of k equally weighted Gaussians: `centres` (k, coordinates) and a common `std`."""

    centres: np.ndarray
    std: float


@dataclass(frozen=True)
class EndlessDataset:
    """A data set without a fixed size: every update draws new points from a distribution.

    `draw(rng, count)` returns float32 points (count, coordinates). `modes` describes a mixture of
    Gaussians; it is None for other distributions.
    """

    name: str
    sample_shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, int], np.ndarray]
    held_out_size: int = 4096
    modes: Modes | None = None
    labels: None = None
    training_size: None = None

    @property
    def held_out(self) -> Tensor:
        """Held-out points, the same in every run."""
        rng = Draws(FIXED_SEED, Stream.HELD_OUT).numpy()
        return torch.from_numpy(self.draw(rng, self.held_out_size))

    def feed(
        self, batch_size: int, seed: int, device: torch.device, shard: Shard = FULL_BATCH
    ) -> Feed:
        """Return a feed that draws new points for every update."""
        return EndlessFeed(self.draw, batch_size, seed, device, shard)

    def training_sample(self, chosen: Tensor) -> Tensor:
        """Return as many points as `chosen` has entries; the values of `chosen` are not used.

        The points are the same in every run and different from `held_out`.
        """
        return torch.from_numpy(self.draw(Draws(FIXED_SEED, Stream.POINTS).numpy(), len(chosen)))


def split(
    samples: Tensor, name: str, fraction: float = 0.2, labels: Tensor | None = None
) -> TensorDataset:
    """Return a data set; a fixed permutation chooses which fraction of the samples is held out."""
    order = torch.from_numpy(Draws(FIXED_SEED, Stream.HELD_OUT).numpy().permutation(len(samples)))
    count = int(fraction * len(samples))
    held_out, train = order[:count], order[count:]
    split_labels = None if labels is None else Labels(labels[train], labels[held_out])
    return TensorDataset(name, samples[train], samples[held_out], split_labels)


def held_out_halves(dataset: Dataset, count: int | None) -> tuple[Tensor, Tensor]:
    """Return the indices of two disjoint random sets of `count` held-out samples, (count,) each.

    The sets are the same in every run. If `count` is None, each set has 1024 samples, or half of
    the held-out part if that is less. Raises `ConfigError` for fewer than 2 * count held-out
    samples.
    """
    available = len(dataset.held_out)
    if count is None:
        count = min(1024, available // 2)
    if 2 * count > available:
        raise ConfigError(
            f"eval_samples={count} (wgan-eval --n) is too many: {dataset.name} has {available}"
            " held-out samples, and an evaluation needs two disjoint sets of them: at most"
            f" {available // 2}."
        )
    order = Draws(FIXED_SEED, Stream.EVALUATION).numpy().permutation(available)
    first, second = torch.from_numpy(order[: 2 * count]).chunk(2)
    return first, second


def check_count(name: str, part: str, count: int) -> None:
    """Raise `DataError` if a part has fewer than 8 samples."""
    if count < 8:
        raise DataError(f"{name}: the {part} part has {count} samples; it needs 8 or more.")


def check_samples(name: str, part: str, samples: Tensor) -> None:
    """Raise `DataError` if samples are NaN or infinite, or all equal, or images are not uint8."""
    if samples.is_floating_point() and not samples.isfinite().all():
        raise DataError(f"{name}: the {part} part holds NaN or infinite values.")
    if samples.ndim == 4 and samples.dtype != torch.uint8:
        raise DataError(f"{name}: images must be uint8, not {samples.dtype}.")
    # Compare a few samples first: they almost always differ.
    if all(bool((some == samples[0]).all()) for some in (samples[:64], samples[64:])):
        raise DataError(
            f"{name}: all {len(samples)} samples of the {part} part are equal, so there is nothing"
            " to learn or to measure."
        )


def check_batch_size(name: str, batch_size: int, size: int) -> None:
    """Raise `DataError` if a batch is larger than the training part."""
    if batch_size > size:
        raise DataError(
            f"batch_size={batch_size} is larger than the training part of {name}: {size} samples."
        )


def _check_labels(name: str, part: str, labels: Tensor, count: int) -> None:
    if len(labels) != count or labels.dtype != torch.int64 or bool((labels < 0).any()):
        raise DataError(
            f"{name}: the {part} part needs one label, an int64 from 0, for each of its"
            f" {count} samples."
        )

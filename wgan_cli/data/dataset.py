"""What a data set is to the rest: a name, a sample shape, a training part and a held-out part.

Images are uint8 of shape (count, channels, height, width) until they are on the device, where
`as_floats` maps them to [-1, 1]; points are float32 of shape (count, coordinates).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wgan_cli.data.checks import check_batch_size, check_count, check_samples
from wgan_cli.data.feeds import EndlessFeed, Feed, ResidentFeed
from wgan_cli.errors import ConfigError, DataError
from wgan_cli.randomness import WHOLE, Draws, Share, Stream

# The split and the held-out points are facts of a data set: no run's seed changes them.
FIXED_SEED = 0


@dataclass(frozen=True)
class Labels:
    """The class of every sample, int64 from 0, in the order of the samples.

    With `channel_classes`, every channel of an image has a class of its own, one of so many, and a
    label is the number that they are the digits of, the first channel's first.
    """

    train: Tensor
    held_out: Tensor
    channel_classes: int | None = None


class Dataset(Protocol):
    """The interface that training and evaluation use."""

    @property
    def name(self) -> str:
        """As in the config and in messages."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of images, (coordinates,) of points."""

    @property
    def held_out(self) -> Tensor:
        """Samples that are never trained on: uint8 images or float32 points."""

    @property
    def labels(self) -> Labels | None:
        """The samples' classes, where they have any."""

    @property
    def modes(self) -> Modes | None:
        """The Gaussians that a mixture is made of."""

    def feed(self, batch_size: int, seed: int, device: torch.device, share: Share = WHOLE) -> Feed:
        """Training batches as floats on the device. Raises when a batch is larger than the data.

        `share` is whose rows of each batch they are.
        """

    @property
    def training_size(self) -> int | None:
        """How many training samples there are; None where there is no end of them."""

    def training_sample(self, chosen: Tensor) -> Tensor:
        """The training samples at these places (n,), as `held_out` is kept.

        Of an endless set as many points, apart from the held-out ones, the same in every run.
        """


@dataclass(frozen=True)
class TensorDataset:
    """A data set that fits in memory. Raises `DataError` when a part is empty or malformed.

    Images are uint8 (n, c, h, w), points float32 (n, coordinates). `flip` mirrors half of the
    training images.
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
            _check_labels(self.name, "training", self.train, self.labels.train)
            _check_labels(self.name, "held-out", self.held_out, self.labels.held_out)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.shape[1:])

    def feed(self, batch_size: int, seed: int, device: torch.device, share: Share = WHOLE) -> Feed:
        """Batches in an order that (seed, epoch) alone decides."""
        check_batch_size(self.name, batch_size, len(self.train))
        labels = None if self.labels is None else self.labels.train
        return ResidentFeed(
            self.train, batch_size, seed, device, share, labels=labels, flip=self.flip
        )

    @property
    def training_size(self) -> int:
        """The size of the training part."""
        return len(self.train)

    def training_sample(self, chosen: Tensor) -> Tensor:
        """The training samples at these places."""
        return self.train[chosen]


@dataclass(frozen=True, eq=False)
class Modes:
    """Equally weighted round Gaussians: `centres` (k, coordinates) and the `std` of each."""

    centres: np.ndarray
    std: float


@dataclass(frozen=True)
class EndlessDataset:
    """A distribution: `draw(rng, count)` gives float32 points of shape (count, coordinates).

    `modes` are what it is made of, where that is known and can be counted.
    """

    name: str
    sample_shape: tuple[int, ...]
    draw: Callable[[np.random.Generator, int], np.ndarray]
    held_out_size: int = 4096
    modes: Modes | None = None
    labels: Labels | None = None

    @property
    def held_out(self) -> Tensor:
        """The same points in every run."""
        rng = Draws(FIXED_SEED, Stream.HELD_OUT).numpy()
        return torch.from_numpy(self.draw(rng, self.held_out_size))

    def feed(self, batch_size: int, seed: int, device: torch.device, share: Share = WHOLE) -> Feed:
        """Fresh points in every update."""
        return EndlessFeed(self.draw, batch_size, seed, device, share)

    @property
    def training_size(self) -> None:
        """There is no end of them."""

    def training_sample(self, chosen: Tensor) -> Tensor:
        """As many points as places, apart from the held-out ones, the same in every run."""
        return torch.from_numpy(self.draw(Draws(FIXED_SEED, Stream.POINTS).numpy(), len(chosen)))


def split(
    samples: Tensor, name: str, share: float = 0.2, labels: Tensor | None = None
) -> TensorDataset:
    """Hold out a share of the samples by a fixed permutation, for sets without a test part."""
    order = torch.from_numpy(Draws(FIXED_SEED, Stream.HELD_OUT).numpy().permutation(len(samples)))
    count = int(share * len(samples))
    held_out, train = order[:count], order[count:]
    split_labels = None if labels is None else Labels(labels[train], labels[held_out])
    return TensorDataset(name, samples[train], samples[held_out], split_labels)


def held_out_halves(dataset: Dataset, count: int | None) -> tuple[Tensor, Tensor]:
    """The places of two disjoint held-out samples of equal size, in a fixed random order.

    `count` null gives the smaller of 1024 and half the held-out part. Raises `ConfigError` when the
    held-out part has not 2 * count samples.
    """
    held_out = dataset.held_out
    if count is None:
        count = min(1024, len(held_out) // 2)
    if 2 * count > len(held_out):
        raise ConfigError(
            f"eval_samples={count} (wgan-eval --n) is too many: {dataset.name} has {len(held_out)}"
            " held-out samples and an evaluation needs two disjoint sets of them, so at most"
            f" {len(held_out) // 2}."
        )
    order = Draws(FIXED_SEED, Stream.EVALUATION).numpy().permutation(len(held_out))
    first, second = torch.from_numpy(order[: 2 * count]).chunk(2)
    return first, second


def _check_labels(name: str, part: str, samples: Tensor, labels: Tensor) -> None:
    if len(labels) != len(samples) or labels.dtype != torch.int64 or bool((labels < 0).any()):
        raise DataError(
            f"{name}: the {part} part needs a label for each of its {len(samples)} samples, int64"
            " from 0 on."
        )

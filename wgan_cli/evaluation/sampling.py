"""Evaluation mode of networks, and batched sampling with or without classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wgan_cli.models.conditional import with_labels
from wgan_cli.randomness import Draws

BATCH = 256


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put the networks in eval mode inside the block; then restore each module's mode."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def label_batches(labels: Tensor | None, count: int) -> list[Tensor | None]:
    """Return the labels of `count` samples in batches of `BATCH`; None per batch without labels."""
    if labels is None:
        return [None] * -(-count // BATCH)
    return list(labels[:count].split(BATCH))


@torch.no_grad()
def generate(generator: nn.Module, latent: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return float32 samples (n, *shape) for noise (n, latent_dim), in eval mode and in batches.

    `labels` (n,) are the classes of the samples, for a conditional generator.
    """
    with evaluating(generator):
        batches = zip(latent.split(BATCH), label_batches(labels, len(latent)), strict=True)
        samples = [with_labels(generator, classes)(noise).float() for noise, classes in batches]
    return torch.cat(samples)


class ClassSampler:
    """Draws random classes with the frequencies of the training data.

    `labels` (n,) holds the classes of the training samples, and `count` is the networks' number of
    classes. The attribute `shares` (count,) is the fraction of the data that each class has.
    """

    def __init__(self, labels: Tensor, count: int, device: torch.device) -> None:
        self.count = count
        self.shares = (labels.bincount(minlength=count).double() / len(labels)).to(device)
        self._bounds = self.shares.cumsum(0)

    def draw(self, count: int, draws: Draws) -> Tensor:
        """Return random classes (count,), int64, on the device."""
        uniform = draws.uniform((count,), self._bounds.device).double()
        # Rounding may leave the last bound slightly below 1.
        return torch.searchsorted(self._bounds, uniform, right=True).clamp_(max=self.count - 1)

    def rows(self, most: int, columns: int) -> Tensor:
        """Return classes (rows * columns,), one class per row, with at most `most` rows."""
        rows = min(self.count, most)
        return torch.arange(rows, device=self._bounds.device).repeat_interleave(columns)

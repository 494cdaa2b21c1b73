"""Evaluation mode of networks, and batched sampling with or without classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wgan_cli.models.conditional import with_labels

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
    """Return the labels of `count` samples in batches of `BATCH`. Without labels, each is None."""
    if labels is None:
        return [None] * -(-count // BATCH)
    return list(labels[:count].split(BATCH))


@torch.no_grad()
def generate(generator: nn.Module, latent: Tensor, labels: Tensor | None = None) -> Tensor:
    """Generate samples (n, *shape) from noise (n, latent_dim), in eval mode and in batches.

    The samples are float32. `labels` (n,) are their classes, for a conditional generator.
    """
    with evaluating(generator):
        batches = zip(latent.split(BATCH), label_batches(labels, len(latent)), strict=True)
        samples = [with_labels(generator, classes)(noise).float() for noise, classes in batches]
    return torch.cat(samples)

"""Networks in eval mode, and samples drawn from them, with or without classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BATCH = 256


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Inside, the networks are in eval mode; each module's own mode is restored after."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def given(network: nn.Module, labels: Tensor | None) -> Callable[[Tensor], Tensor]:
    """A network as a function of its first argument: of these classes (n,), if there are any."""
    if labels is None:
        return network
    return lambda inputs: network(inputs, labels)


def parts(labels: Tensor | None, count: int) -> list[Tensor | None]:
    """The labels of `count` samples that are taken `BATCH` at a time."""
    if labels is None:
        return [None] * -(-count // BATCH)
    return list(labels[:count].split(BATCH))


@torch.no_grad()
def generate(generator: nn.Module, latent: Tensor, labels: Tensor | None = None) -> Tensor:
    """Samples (n, *shape) for noise (n, latent_dim) in eval mode, in batches, in float32.

    `labels` (n,) are the classes that a conditional generator draws.
    """
    with evaluating(generator):
        pieces = zip(latent.split(BATCH), parts(labels, len(latent)), strict=True)
        return torch.cat([given(generator, classes)(part).float() for part, classes in pieces])

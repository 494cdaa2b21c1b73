"""Networks in eval mode, and samples drawn from them."""

from __future__ import annotations

from collections.abc import Iterator
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


@torch.no_grad()
def generate(generator: nn.Module, latent: Tensor) -> Tensor:
    """Samples (n, *shape) for noise (n, latent_dim) in eval mode, in batches, in float32."""
    with evaluating(generator):
        return torch.cat([generator(part).float() for part in latent.split(BATCH)])

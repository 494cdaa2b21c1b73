"""A moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """`module` is a copy of a network that follows it slowly, statistics of BatchNorm included.

    After the network's first update it is equal to it, from then on after each one
    average = decay * average + (1 - decay) * weight. Buffers that count are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.begun = False
        self._own, self._network = _parts(self.module), _parts(network)

    @torch.no_grad()
    def follow(self) -> None:
        """To be called after an update of the network."""
        (own, own_counts), (weights, counts) = self._own, self._network
        if self.begun:
            torch._foreach_lerp_(own, weights, 1 - self.decay)
        else:
            torch._foreach_copy_(own, weights)
        if counts:
            torch._foreach_copy_(own_counts, counts)
        self.begun = True


def _parts(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """A network's weights and statistics, and what counts."""
    everything = [*network.parameters(), *network.buffers()]
    numbers = [tensor.detach() for tensor in everything if tensor.is_floating_point()]
    return numbers, [tensor for tensor in everything if not tensor.is_floating_point()]

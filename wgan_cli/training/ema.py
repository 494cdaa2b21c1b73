"""A moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """`module` is a copy of a network that follows it slowly, statistics of BatchNorm included.

    After the network's first update it is equal to it, from then on after each one
    average = decay * average + (1 - decay) * weight. Buffers that count are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.begun = False
        self.network = network
        self._own: list[Tensor] = list(self.module.parameters())
        self._others: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def follow(self) -> None:
        """To be called after an update of the network."""
        # Asked for each time, as code may put another tensor in a buffer's place.
        own, others = [*self._own], [*self._others]
        for average, buffer in zip(self.module.buffers(), self.network.buffers(), strict=True):
            if self.begun and average.is_floating_point():
                own.append(average)
                others.append(buffer)
            else:
                average.copy_(buffer)
        if self.begun:
            torch._foreach_lerp_(own, others, 1 - self.decay)
        else:
            torch._foreach_copy_(own, others)
        self.begun = True

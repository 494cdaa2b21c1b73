"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """A moving average of a network's weights and BatchNorm statistics, kept in `module`.

    `module` is a copy of the network. The first call of `update` copies the network's weights. Each
    later call sets average = decay * average + (1 - decay) * weight. Integer buffers are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.network = network
        self._started = False
        self._averages: list[Tensor] = list(self.module.parameters())
        self._weights: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Add the network's weights to the average. Call this after each generator update."""
        # List the buffers each time, because a module may replace a buffer by another tensor.
        averages, weights = [*self._averages], [*self._weights]
        for average, buffer in zip(self.module.buffers(), self.network.buffers(), strict=True):
            if self._started and average.is_floating_point():
                averages.append(average)
                weights.append(buffer)
            else:
                average.copy_(buffer)
        if self._started:
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, weights)
        self._started = True

    def load_state_dict(self, state: dict[str, Any], *, started: bool) -> None:
        """Load the averages. `started` is False if the network has had no update yet."""
        self.module.load_state_dict(state)
        self._started = started

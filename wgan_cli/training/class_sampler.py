"""Which classes a conditional generator is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.randomness import Draws


class ClassSampler:
    """The classes of the training data, drawn as often as they occur there.

    `labels` (n,) are the training samples' classes; `count` is how many classes the networks know,
    and `shares` (count,) how large a part of the data each is.
    """

    def __init__(self, labels: Tensor, count: int, device: torch.device) -> None:
        self.count = count
        self.shares = (labels.bincount(minlength=count).double() / len(labels)).to(device)
        self._bounds = self.shares.cumsum(0)

    def draw(self, count: int, draws: Draws) -> Tensor:
        """Classes (count,) int64 on the device."""
        device = self._bounds.device
        places = draws.uniform((count,), device).double()
        # Rounding may leave the last bound a little below 1.
        return torch.searchsorted(self._bounds, places, right=True).clamp_(max=self.count - 1)

    def rows(self, most: int, columns: int) -> Tensor:
        """Classes for a picture of a row a class, (rows * columns,): the first `most` of them."""
        rows = min(self.count, most)
        return torch.arange(rows, device=self._bounds.device).repeat_interleave(columns)

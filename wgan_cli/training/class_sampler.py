"""Draw the classes that a conditional generator generates."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.randomness import Draws


class ClassSampler:
    """Draws classes as often as they occur in the training data.

    `labels` (n,) are the training samples' classes; `count` is the number of classes of the
    networks, and `shares` (count,) is each class's fraction of the data.
    """

    def __init__(self, labels: Tensor, count: int, device: torch.device) -> None:
        self.count = count
        self.shares = (labels.bincount(minlength=count).double() / len(labels)).to(device)
        self._bounds = self.shares.cumsum(0)

    def draw(self, count: int, draws: Draws) -> Tensor:
        """Classes (count,) int64 on the device."""
        uniform = draws.uniform((count,), self._bounds.device).double()
        # Rounding may leave the last bound slightly below 1.
        return torch.searchsorted(self._bounds, uniform, right=True).clamp_(max=self.count - 1)

    def rows(self, most: int, columns: int) -> Tensor:
        """Classes (rows * columns,) for a picture with a row per class, at most `most` rows."""
        rows = min(self.count, most)
        return torch.arange(rows, device=self._bounds.device).repeat_interleave(columns)

"""Draw random classes for a conditional generator."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.float64 import has_float64, in_float64
from wgan_cli.randomness import Draws


class ClassSampler:
    """Draws random classes with the frequencies of the training data.

    `labels` (n,) holds the classes of the training samples. `count` is the number of classes of the
    networks. The attribute `shares` (count,) is the fraction of the training samples in each class.
    """

    def __init__(self, labels: Tensor, count: int, device: torch.device) -> None:
        self.count = count
        shares = labels.bincount(minlength=count).double() / len(labels)
        self.shares = shares.to(device) if has_float64(device) else shares
        self._bounds = self.shares.cumsum(0)
        self._device = device

    def draw(self, count: int, draws: Draws) -> Tensor:
        """Return random classes (count,) as int64 on the device."""
        uniform = in_float64(draws.uniform((count,), self._device))
        # Rounding may leave the last bound slightly below 1.
        drawn = torch.searchsorted(self._bounds, uniform, right=True).clamp_(max=self.count - 1)
        return drawn.to(self._device)

    def rows(self, most: int, columns: int) -> Tensor:
        """Return labels (rows * columns,) for a grid with one class per row, up to `most` rows."""
        rows = min(self.count, most)
        return torch.arange(rows, device=self._device).repeat_interleave(columns)

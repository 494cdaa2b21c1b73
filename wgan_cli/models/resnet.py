"""Residual networks after arXiv 1704.00028 (appendix), for square images of 28 to 128 pixels.

At 32x32 these are the paper's CIFAR-10 networks. The generator starts from a map of 4x4 to 7x7 and
doubles it up to the image; the critic halves the image until its side is at most 8, then has two
blocks that keep it. Weights are drawn as in the authors' code: uniform, He's with the mean of
fan-in and fan-out for the 3x3 convolutions of the blocks, Xavier's for the others; biases are 0.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wgan_cli.errors import ConfigError
from wgan_cli.models.conditional import Projection, check_labels
from wgan_cli.models.normalization import ClassNorm2d, norm2d
from wgan_cli.models.precision import mark_float32, run_in_float32, to_float32

# A start of 4 to 7, doubled.
_SIDES = sorted(
    start * 2**k for start in range(4, 8) for k in range(6) if 28 <= start * 2**k <= 128
)
_HE = math.sqrt(2)


def _plan(sample_shape: Sequence[int], width: int) -> tuple[int, int, list[int]]:
    """Image channels, the innermost side, and the channels of each map from the image inwards.

    Up to 32x32 all maps have `width`, as in the paper's CIFAR-10 networks. For larger images the
    outermost has half of it, and each further in twice as many up to four times `width`: at 64x64
    and a width of 128, the 64, 128, 256, 512 and 512 of the authors' networks for that size.
    """
    if len(sample_shape) != 3:
        raise ConfigError(
            f"model=resnet draws images, and these samples have shape {tuple(sample_shape)}:"
            " type model=mlp."
        )
    channels, height, width_in_pixels = sample_shape
    if height != width_in_pixels or height not in _SIDES:
        *sides, last = map(str, _SIDES)
        raise ConfigError(
            f"model=resnet needs square images of {', '.join(sides)} or {last} pixels, not"
            f" {height}x{width_in_pixels}: type model=mlp, or resize the data."
        )
    side, doublings = height, 0
    while side > 7:
        side, doublings = side // 2, doublings + 1
    if height <= 32:
        return channels, side, [width] * (doublings + 1)
    return channels, side, [width // 2 * min(2**level, 8) for level in range(doublings + 1)]


def _drawn(layer: nn.Linear | nn.Conv2d, gain: float) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _convolution(inner: int, outer: int, kernel: int, gain: float = 1) -> nn.Module:
    return _drawn(nn.Conv2d(inner, outer, kernel, padding=kernel // 2), gain)


def _norm(kind: str, channels: int, classes: int | None) -> nn.Module:
    return norm2d(kind, channels) if classes is None else ClassNorm2d(kind, channels, classes)


def _through(norm: nn.Module, maps: Tensor, labels: Tensor | None) -> Tensor:
    return norm(maps) if labels is None else norm(maps, labels)


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="nearest")


def _halved(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 2)


class Block(nn.Module):
    """Maps (batch, inner, side, side) to (batch, outer, ...), twice, half or just as large.

    Twice normalisation, ReLU and a 3x3 convolution, beside a shortcut. Without `classes` the
    normalisation is `normalization.norm2d`, with them `normalization.ClassNorm2d`. A block that
    keeps the size also keeps the channels, and its shortcut changes nothing.
    """

    def __init__(
        self,
        inner: int,
        outer: int,
        norm: str,
        resample: Literal["up", "down", "keep"],
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        hidden = outer if resample == "up" else inner
        self.norm1 = _norm(norm, inner, classes)
        self.conv1 = _convolution(inner, hidden, 3, _HE)
        self.norm2 = _norm(norm, hidden, classes)
        self.conv2 = _convolution(hidden, outer, 3, _HE)
        self.shortcut = nn.Identity() if resample == "keep" else _convolution(inner, outer, 1)

    def forward(self, maps: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, inner, side, side), and labels (batch,) with classes, to maps of the new size."""
        residue = torch.relu(_through(self.norm1, maps, labels))
        if self.resample == "up":
            residue = _doubled(residue)
        residue = self.conv1(residue)
        residue = self.conv2(torch.relu(_through(self.norm2, residue, labels)))
        # A 1x1 convolution and a change of size commute; on the smaller maps it costs a quarter.
        if self.resample == "up":
            return residue + _doubled(self.shortcut(maps))
        if self.resample == "down":
            return _halved(residue) + self.shortcut(_halved(maps))
        return residue + self.shortcut(maps)


class ImageBlock(nn.Module):
    """The critic's first block: halves an image, with no ReLU before the first convolution."""

    def __init__(self, channels: int, hidden: int, outer: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, hidden, 3, _HE)
        self.conv2 = _convolution(hidden, outer, 3, _HE)
        self.shortcut = _convolution(channels, outer, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, side, side) to (batch, outer, side / 2, side / 2)."""
        residue = self.conv2(torch.relu(self.conv1(images)))
        return _halved(residue) + self.shortcut(_halved(images))


class Generator(nn.Module):
    """Latent (batch, latent_dim) to images (batch, channels, side, side) in [-1, 1].

    `norm` is in every block and before the last layer. With `classes`, the blocks' scales and
    shifts are those of the class (`normalization.ClassNorm2d`).
    """

    def __init__(
        self,
        latent_dim: int,
        sample_shape: Sequence[int],
        width: int = 128,
        norm: str = "batch",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        channels, side, planes = _plan(sample_shape, width)
        self.start = (planes[-1], side, side)
        self.first = _drawn(nn.Linear(latent_dim, math.prod(self.start)), 1)
        self.blocks = nn.ModuleList(
            Block(inner, outer, norm, "up", classes) for inner, outer in pairwise(planes[::-1])
        )
        self.norm = norm2d(norm, planes[0])
        self.last = _convolution(planes[0], channels, 3)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, latent_dim), and labels (batch,) with classes, to (batch, *sample_shape)."""
        check_labels(self.classes, labels)
        maps = self.first(latent).unflatten(1, self.start)
        for block in self.blocks:
            maps = block(maps, labels)
        return torch.tanh(self.last(torch.relu(self.norm(maps))))


class Critic(nn.Module):
    """Images (batch, channels, side, side) to scores (batch,).

    `norm` is in every block but the first. With `classes`, a score is of an image and its class
    (`conditional.Projection`); the features are the means of the innermost maps.
    """

    def __init__(
        self,
        sample_shape: Sequence[int],
        width: int = 128,
        norm: str = "none",
        classes: int | None = None,
    ) -> None:
        super().__init__()
        channels, _, planes = _plan(sample_shape, width)
        halvings = next(count for count in range(len(planes)) if sample_shape[1] >> count <= 8)
        within = planes[1 : halvings + 1]
        self.blocks = nn.Sequential(
            ImageBlock(channels, *planes[:2]),
            *(Block(outer, inner, norm, "down") for outer, inner in pairwise(within)),
            *(Block(within[-1], within[-1], norm, "keep") for _ in range(2)),
        )
        self.last = mark_float32(_drawn(nn.Linear(within[-1], 1), 1))
        self.projection = Projection(within[-1], classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(batch, channels, side, side), and labels (batch,) with classes, to (batch,)."""
        features = to_float32(torch.relu(self.blocks(images))).mean(dim=(2, 3))
        return self.projection(run_in_float32(self.last, features).squeeze(1), features, labels)

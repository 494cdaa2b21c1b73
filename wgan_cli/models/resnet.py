"""Residual networks like those of arXiv 1704.00028 (appendix), for images of side 28 to 128.

At 32x32 pixels these are the paper's CIFAR-10 networks. The generator starts from a map of side 4
to 7 and doubles it up to the image's size. The critic halves the image until its side is at most 8.
Two more blocks keep the size. Weights are initialised as in the authors' code. The 3x3 convolutions
of the blocks use uniform He initialisation, with (fan_in + fan_out) / 2 in place of fan_in. The
other layers use uniform Xavier initialisation. Biases start at 0.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wgan_cli.errors import ConfigError
from wgan_cli.models.conditional import Projection, check_labels, with_labels
from wgan_cli.models.normalization import ClassNorm2d, norm2d
from wgan_cli.models.pooling import halved
from wgan_cli.models.precision import mark_float32, run_in_float32, to_float32

# The sides from 28 to 128 that result from doubling 4, 5, 6 or 7 several times.
_SIDES = sorted(
    start * 2**k for start in range(4, 8) for k in range(6) if 28 <= start * 2**k <= 128
)
_HE_GAIN = math.sqrt(2)


def _plan(sample_shape: Sequence[int], width: int) -> tuple[int, int, list[int]]:
    """Return the image channels, the smallest map's side, and each map's channels, largest first.

    For images up to 32x32, all maps have `width` channels, as in the paper's CIFAR-10 networks. For
    larger images, the largest map has width / 2 channels, and each smaller map has twice as many as
    the one before, up to 4 * width. At 64x64 and width 128, this gives 64, 128, 256, 512 and 512
    channels, as in the authors' networks for that size.
    """
    if len(sample_shape) != 3:
        raise ConfigError(
            f"model=resnet generates images, and these samples have shape {tuple(sample_shape)}:"
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


def _initialised(layer: nn.Linear | nn.Conv2d, gain: float) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _convolution(inner: int, outer: int, kernel: int, gain: float = 1) -> nn.Module:
    return _initialised(nn.Conv2d(inner, outer, kernel, padding=kernel // 2), gain)


def _norm(kind: str, channels: int, classes: int | None) -> nn.Module:
    return norm2d(kind, channels) if classes is None else ClassNorm2d(kind, channels, classes)


class Block(nn.Module):
    """A residual block from `inner` to `outer` channels, which may double or halve the side.

    The residual branch applies normalisation, ReLU and a 3x3 convolution, in this order, twice.
    With `classes`, the normalisation is `normalization.ClassNorm2d`; otherwise it is
    `normalization.norm2d`. If the block keeps the size, it also keeps the channels, and its
    shortcut is the identity.
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
        self.relu = nn.ReLU()
        self.norm1 = _norm(norm, inner, classes)
        self.conv1 = _convolution(inner, hidden, 3, _HE_GAIN)
        self.norm2 = _norm(norm, hidden, classes)
        self.conv2 = _convolution(hidden, outer, 3, _HE_GAIN)
        self.shortcut = nn.Identity() if resample == "keep" else _convolution(inner, outer, 1)

    def forward(self, maps: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map (batch, inner, side, side), and labels (batch,) if any, to (batch, outer, ...)."""
        residual = self.relu(with_labels(self.norm1, labels)(maps))
        if self.resample == "up":
            residual = F.interpolate(residual, scale_factor=2, mode="nearest")
        residual = self.conv1(residual)
        residual = self.conv2(self.relu(with_labels(self.norm2, labels)(residual)))
        # A 1x1 convolution commutes with resampling. It takes a quarter of the time on the smaller
        # map.
        if self.resample == "up":
            return residual + F.interpolate(self.shortcut(maps), scale_factor=2, mode="nearest")
        if self.resample == "down":
            return halved(residual) + self.shortcut(halved(maps))
        return residual + self.shortcut(maps)


class ImageBlock(nn.Module):
    """The critic's first block. It halves the side and has no ReLU before its first convolution."""

    def __init__(self, channels: int, hidden: int, outer: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv1 = _convolution(channels, hidden, 3, _HE_GAIN)
        self.conv2 = _convolution(hidden, outer, 3, _HE_GAIN)
        self.shortcut = _convolution(channels, outer, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, channels, side, side) to (batch, outer, side / 2, side / 2)."""
        residual = self.conv2(self.relu(self.conv1(images)))
        return halved(residual) + self.shortcut(halved(images))


class Generator(nn.Module):
    """Maps latents (batch, latent_dim) to images (batch, channels, side, side) in [-1, 1].

    The normalisation `norm` is applied in every block and before the last layer. With `classes`,
    the blocks have a scale and a shift per class (see `normalization.ClassNorm2d`).
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
        self.first = _initialised(nn.Linear(latent_dim, math.prod(self.start)), 1)
        self.blocks = nn.ModuleList(
            Block(inner, outer, norm, "up", classes) for inner, outer in pairwise(planes[::-1])
        )
        self.relu = nn.ReLU()
        self.norm = norm2d(norm, planes[0])
        self.last = _convolution(planes[0], channels, 3)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (batch, latent_dim), and labels (batch,) if any, to images."""
        check_labels(self.classes, labels)
        maps = self.first(latent).unflatten(1, self.start)
        for block in self.blocks:
            maps = block(maps, labels)
        return torch.tanh(self.last(self.relu(self.norm(maps))))


class Critic(nn.Module):
    """Maps images (batch, channels, side, side) to scores (batch,).

    The normalisation `norm` is applied in every block but the first. With `classes`, the score also
    depends on the class, through a `conditional.Projection` of the means of the last maps.
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
        critic_planes = planes[1 : halvings + 1]
        self.blocks = nn.Sequential(
            ImageBlock(channels, *planes[:2]),
            *(Block(outer, inner, norm, "down") for outer, inner in pairwise(critic_planes)),
            *(Block(critic_planes[-1], critic_planes[-1], norm, "keep") for _ in range(2)),
        )
        self.relu = nn.ReLU()
        self.last = mark_float32(_initialised(nn.Linear(critic_planes[-1], 1), 1))
        self.projection = Projection(critic_planes[-1], classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images, and labels (batch,) if any, to scores (batch,)."""
        features = to_float32(self.relu(self.blocks(images))).mean(dim=(2, 3))
        return self.projection(run_in_float32(self.last, features).squeeze(1), features, labels)

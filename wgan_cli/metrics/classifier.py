"""A small convolutional classifier of images, whose features need no download."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

FEATURES = 128
SIDE = 8


class Classifier(nn.Module):
    """A small convolutional network: images (n, C, H, W) in [-1, 1] to features and logits.

    A strided convolution brings each side to about 16, three more with two halvings end in the
    mean over positions: features (n, 128), of which the logits (n, classes) are a linear function.
    Any sides from 8 pixels on, also unequal ones. Raises ValueError for smaller images.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < SIDE:
            raise ValueError(f"images of {SIDE}x{SIDE} and more are needed, not {height}x{width}")
        strides = strides_of(height, width)
        self.layers = nn.Sequential(
            # Without scale and shift: brings the data's own mean and spread to 0 and 1.
            nn.BatchNorm2d(channels, affine=False),
            nn.Conv2d(channels, 32, (strides[0] + 2, strides[1] + 2), strides, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            *_block(32, 64),
            nn.MaxPool2d(2, ceil_mode=True),
            *_block(64, FEATURES),
            nn.MaxPool2d(2, ceil_mode=True),
            *_block(FEATURES, FEATURES),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, 128) and logits (n, classes)."""
        # On the CPU convolutions of channels-last maps are up to twice as fast.
        features = self.layers(images.contiguous(memory_format=torch.channels_last))
        return features, self.head(features)


def strides_of(height: int, width: int) -> tuple[int, int]:
    """The first layer's, down and across."""
    return max(2, round(height / 16)), max(2, round(width / 16))


def _block(inner: int, outer: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inner, outer, 3, padding=1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    ]


@torch.no_grad()
def extract(
    network: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, batch: int = 128
) -> tuple[Tensor, Tensor]:
    """Features (n, d) and logits (n, classes) of floats (n, C, H, W) in [-1, 1], in batches.

    The network is one in eval mode, such as a `Classifier` or an `Inception`; the results are on
    the images' device.
    """
    features, logits = zip(*(network(some) for some in images.split(batch)), strict=True)
    return torch.cat(features), torch.cat(logits)

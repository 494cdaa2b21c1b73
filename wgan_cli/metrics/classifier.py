"""Small image classifiers, whose features need no downloaded weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

FEATURES = 128
SIDE = 8


class Classifier(nn.Module):
    """A small convolutional network: maps images (n, C, H, W) in [-1, 1] to features and logits.

    A strided convolution reduces each side to about 16. Three more convolutions, two max pools and
    a mean over positions give the features (n, 128). A linear layer gives the logits (n, classes).
    Height and width may differ. Raises ValueError for sides below 8 pixels.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        if min(height, width) < SIDE:
            raise ValueError(f"images must be at least {SIDE}x{SIDE}, not {height}x{width}")
        strides = first_strides(height, width)
        self.layers = nn.Sequential(
            # Standardises the data, without a learned scale and shift.
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
        """Return features (n, 128) and logits (n, classes)."""
        # On the CPU, convolutions in channels-last layout are up to twice as fast.
        features = self.layers(images.contiguous(memory_format=torch.channels_last))
        return features, self.head(features)


def first_strides(height: int, width: int) -> tuple[int, int]:
    """Return the vertical and the horizontal stride of the first convolution."""
    return max(2, round(height / 16)), max(2, round(width / 16))


def _block(inner: int, outer: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inner, outer, 3, padding=1, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
    ]


class ChannelClassifier(nn.Module):
    """Applies a classifier of single channels to each channel of an image.

    Maps images (n, C, H, W) to features (n, C * d) and logits (n, classes^C). The features are
    those of the channels, concatenated. A logit is the sum of one log-probability per channel.
    Written in base `classes`, the index of a logit has one digit per channel, first channel first:
    its class.
    """

    def __init__(self, single: nn.Module) -> None:
        super().__init__()
        self.single = single

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (n, C * d) and logits (n, classes^C)."""
        count, channels = images.shape[:2]
        features, logits = self.single(images.flatten(0, 1).unsqueeze(1))
        joint = images.new_zeros(count, 1)
        for channel in logits.log_softmax(dim=1).unflatten(0, (count, channels)).unbind(1):
            joint = (joint[:, :, None] + channel[:, None]).flatten(1)
        return features.reshape(count, -1), joint


@torch.no_grad()
def extract(
    network: Callable[[Tensor], tuple[Tensor, Tensor]], images: Tensor, batch: int = 128
) -> tuple[Tensor, Tensor]:
    """Return features (n, d) and logits (n, classes) of images (n, C, H, W) in [-1, 1].

    The network, such as a `Classifier` or an `Inception`, must be in eval mode. It is applied in
    batches; the results are on the images' device.
    """
    features, logits = zip(*(network(part) for part in images.split(batch)), strict=True)
    return torch.cat(features), torch.cat(logits)

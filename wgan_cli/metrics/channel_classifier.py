"""A classifier for images whose channels each show a thing of a class: stacked MNIST."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_cli.errors import DataError
from wgan_cli.metrics.classifier_training import TrainedClassifier, trained_classifier

# Single channels to learn from and to measure on: as many images as MNIST has.
TRAINED_ON = 60_000
MEASURED_ON = 10_000


class ChannelClassifier(nn.Module):
    """Looks at every channel by a classifier of single ones, as stacked MNIST's modes are counted.

    Images (n, C, H, W) to features (n, C * d), the channels' own side by side, and logits
    (n, classes^C): the sums of the channels' log-probabilities, in the order of numbers whose
    digits are the channels' classes, the first channel's first.
    """

    def __init__(self, single: nn.Module) -> None:
        super().__init__()
        self.single = single

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, C * d) and logits (n, classes^C)."""
        count, channels = images.shape[:2]
        features, logits = self.single(images.flatten(0, 1).unsqueeze(1))
        joint = images.new_zeros(count, 1)
        for own in logits.log_softmax(dim=1).unflatten(0, (count, channels)).unbind(1):
            joint = (joint[:, :, None] + own[:, None]).flatten(1)
        return features.reshape(count, -1), joint


def trained_channel_classifier(
    name: str,
    train: Tensor,
    train_labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    classes: int,
    cache: Path,
    tell: Callable[[str], None],
) -> TrainedClassifier:
    """`trained_classifier` for single channels of `classes` kinds, around it a `ChannelClassifier`.

    Labels are the numbers whose digits, to the base of `classes`, are the channels'. The accuracy
    is that on single channels. Raises DataError as there, and where no channel shows the last
    class.
    """
    images, own_labels = _singles(train, train_labels, classes, TRAINED_ON)
    if int(own_labels.max()) + 1 != classes:
        raise DataError(
            f"A classifier cannot be trained on {name}: the last of its channels' {classes} classes"
            " is in none of them."
        )
    others = _singles(held_out, held_out_labels, classes, MEASURED_ON)
    found = trained_classifier(f"{name} by channel", images, own_labels, *others, cache, tell)
    return dataclasses.replace(found, network=ChannelClassifier(found.network).eval())


def _singles(images: Tensor, labels: Tensor, classes: int, most: int) -> tuple[Tensor, Tensor]:
    """The first channels as images (m, 1, h, w), and their labels (m,)."""
    channels = images.shape[1]
    count = -(-most // channels)
    places = classes ** torch.arange(channels - 1, -1, -1)
    digits = labels[:count, None] // places % classes
    return images[:count].flatten(0, 1).unsqueeze(1), digits.flatten()

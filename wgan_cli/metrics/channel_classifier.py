"""A classifier for images with one class per channel, such as stacked MNIST."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_cli.errors import DataError
from wgan_cli.metrics.classifier_training import Labelled, TrainedClassifier, trained_classifier

# The numbers of single channels for training and testing, as many as MNIST has images.
TRAINING_SIZE = 60_000
TEST_SIZE = 10_000


class ChannelClassifier(nn.Module):
    """Applies a classifier of single channels to each channel of an image.

    Maps images (n, C, H, W) to features (n, C * d), the concatenated features of the channels, and
    to logits (n, classes^C), the sums of the channels' log-probabilities. The digits of a logit's
    index to the base `classes` are the classes of the channels, first channel first.
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


def trained_channel_classifier(
    name: str,
    train: Labelled,
    held_out: Labelled,
    classes: int,
    cache: Path,
    log: Callable[[str], None],
) -> TrainedClassifier:
    """Train a classifier on single channels and return a `ChannelClassifier` that applies it.

    The digits of a label to the base `classes` are the classes of the channels. The accuracy is
    measured on single channels. The other arguments are those of `trained_classifier`. Raises
    DataError as `trained_classifier` does, and if no channel has the last class.
    """
    single_train = _singles(*train, classes, TRAINING_SIZE)
    if int(single_train[1].max()) + 1 != classes:
        raise DataError(
            f"A classifier cannot be trained on {name}: no channel has the last of the {classes}"
            " classes."
        )
    single_held_out = _singles(*held_out, classes, TEST_SIZE)
    single = trained_classifier(f"{name} by channel", single_train, single_held_out, cache, log)
    return dataclasses.replace(single, network=ChannelClassifier(single.network).eval())


def _singles(images: Tensor, labels: Tensor, classes: int, most: int) -> Labelled:
    """Return single channels as images (m, 1, h, w), and their labels (m,).

    All channels of the first ceil(most / channels) images are returned.
    """
    channels = images.shape[1]
    count = -(-most // channels)
    place_values = classes ** torch.arange(channels - 1, -1, -1)
    digits = labels[:count, None] // place_values % classes
    return images[:count].flatten(0, 1).unsqueeze(1), digits.flatten()

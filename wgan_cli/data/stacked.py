"""Stacked MNIST: three digits as colour channels, which gives 1,000 countable modes."""

from __future__ import annotations

import torch
from torch import Tensor

from wgan_cli.data.dataset import FIXED_SEED, Labels, TensorDataset
from wgan_cli.data.images import read_part
from wgan_cli.randomness import Draws, Stream

# PacGAN's numbers of training and test samples (arXiv 1712.04086, section 4.2).
TRAINING_SIZE = 128_000
HELD_OUT_SIZE = 26_000


def stacked_mnist(
    name: str = "stacked_mnist", root: str = "data", download: bool = True
) -> TensorDataset:
    """Return images uint8 (n, 3, 28, 28) of three random MNIST digits each (arXiv 1611.02163).

    The label of an image is 100 * red + 10 * green + blue, from the digits of its channels. The
    images are the same in every run. The training part is made of MNIST's training images, and the
    held-out part of its test images. Raises `DataError` if MNIST cannot be read.
    """
    train, train_labels = _stacked(name, root, download, train=True)
    held_out, held_out_labels = _stacked(name, root, download, train=False)
    return TensorDataset(
        name, train, held_out, Labels(train_labels, held_out_labels, channel_classes=10)
    )


def _stacked(name: str, root: str, download: bool, *, train: bool) -> tuple[Tensor, Tensor]:
    images, labels = read_part(name, "MNIST", root, download, train=train)
    # Step 0 of the stream is used by `dataset.split`.
    rng = Draws(FIXED_SEED, Stream.HELD_OUT, step=1, inner=int(train)).numpy()
    count = TRAINING_SIZE if train else HELD_OUT_SIZE
    chosen = torch.from_numpy(rng.integers(len(images), size=(count, 3)))
    return images[:, 0][chosen], labels[chosen] @ torch.tensor([100, 10, 1])

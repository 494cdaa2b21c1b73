"""Train a classifier once on the labels of a data set; `classifier_cache` keeps it in a file."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wgan_cli.errors import DataError
from wgan_cli.metrics.classifier import (
    FEATURES,
    SIDE,
    ChannelClassifier,
    Classifier,
    extract,
    first_strides,
)
from wgan_cli.metrics.classifier_cache import key_of, read_weights, write_weights
from wgan_cli.randomness import Draws, Stream

# Part of the cache key: increase it whenever the network or its training changes.
FORMAT = 1
# The last bits of the weights depend on the number of threads. Fix this number, so that scores do
# not depend on the machine. Use one thread, because threads on a busy machine wait for others.
THREADS = 1

SEED = 20171
BATCH = 128
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
# Training ends when the first layer has computed BUDGET * image channels output positions: half an
# epoch of MNIST, and 1.5 epochs of CIFAR-10, which is harder to classify.
BUDGET = 7_000_000
# Small data sets need fewer steps: EPOCHS epochs, but at least STEPS steps.
EPOCHS = 30
STEPS = 300

# The numbers of single channels for training and testing, as many as MNIST has images.
CHANNELS_TRAINED = 60_000
CHANNELS_TESTED = 10_000

# Images uint8 (n, C, H, W) and their labels int64 (n,), from 0.
Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network in eval mode on the CPU, with its accuracy.

    `accuracy` is measured on the held-out images. `path` is the cache file, even if it could not
    be written, and None without a cache. `trained_now` is False if the network was read from it.
    """

    network: nn.Module
    accuracy: float
    path: Path | None
    trained_now: bool


def trained_classifier(
    name: str, train: Labelled, held_out: Labelled, cache: Path | None, log: Callable[[str], None]
) -> TrainedClassifier:
    """Return a classifier of the data set's labels, from the folder `cache` or newly trained.

    The weights depend only on the data, not on the number of threads or the global random state.
    The function changes neither of these. Without a folder, nothing is cached. `log` is called with
    a message before and after training, and if a cache file is unusable. Raises DataError if images
    are too small or all equal, if there are fewer than two classes, or if the numbers of images and
    labels differ.
    """
    problem = _problem(train, held_out)
    if problem is not None:
        raise DataError(f"A classifier cannot be trained on {name}: {problem}.")
    images, labels = train
    classes = int(labels.max()) + 1
    key = key_of(_recipe(), *train, *held_out)
    file = f"classifier-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{key[:16]}.pt"
    path = None if cache is None else cache / file
    network = _untrained(images, classes)
    cached_accuracy = None if path is None else read_weights(path, key, network, log)
    if cached_accuracy is not None:
        return TrainedClassifier(network.eval(), cached_accuracy, path, trained_now=False)
    # Create the network again: loading a damaged file may have changed part of its weights.
    network = _untrained(images, classes)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.enable_grad():
            _train(network, name, images, labels, log)
        accuracy = _accuracy(network, *held_out)
    finally:
        torch.set_num_threads(threads)
    where = write_weights(path, key, network, accuracy)
    log(f"metrics: the classifier is right on {accuracy:.1%} of the held-out images; {where}")
    return TrainedClassifier(network, accuracy, path, trained_now=True)


def trained_channel_classifier(
    name: str,
    train: Labelled,
    held_out: Labelled,
    classes: int,
    cache: Path | None,
    log: Callable[[str], None],
) -> TrainedClassifier:
    """Train a classifier on single channels and return a `ChannelClassifier` that applies it.

    Written in base `classes`, a label has one digit per channel, which is the class of that
    channel. The accuracy is measured on single channels. The other arguments are those of
    `trained_classifier`. Raises DataError as `trained_classifier` does, and if no channel has the
    last class.
    """
    single_train = _singles(*train, classes, CHANNELS_TRAINED)
    if int(single_train[1].max()) + 1 != classes:
        raise DataError(
            f"A classifier cannot be trained on {name}: no channel has the last of the {classes}"
            " classes."
        )
    single_held_out = _singles(*held_out, classes, CHANNELS_TESTED)
    single = trained_classifier(f"{name} by channel", single_train, single_held_out, cache, log)
    return dataclasses.replace(single, network=ChannelClassifier(single.network).eval())


def _problem(*parts: Labelled) -> str | None:
    """Return why a classifier cannot be trained on the first part, or None if it can."""
    for images, labels in parts:
        if len(images) != len(labels) or len(images) == 0:
            return f"it has {len(images)} images and {len(labels)} labels"
    images, labels = parts[0]
    height, width = images.shape[2:]
    if min(height, width) < SIDE:
        return f"its images of {height}x{width} are smaller than {SIDE}x{SIDE}"
    if int(labels.min()) < 0 or len(labels.unique()) < 2:
        return "its labels have fewer than two classes"
    # Compare in chunks: a single comparison would need as much memory as the images.
    if all(bool((chunk == images[0]).all()) for chunk in images.split(512)):
        return "all its images are equal"
    return None


def _singles(images: Tensor, labels: Tensor, classes: int, most: int) -> Labelled:
    """Return single channels as images (m, 1, h, w), and their labels (m,).

    All channels of the first ceil(most / channels) images are returned.
    """
    channels = images.shape[1]
    count = -(-most // channels)
    place_values = classes ** torch.arange(channels - 1, -1, -1)
    digits = labels[:count, None] // place_values % classes
    return images[:count].flatten(0, 1).unsqueeze(1), digits.flatten()


def _recipe() -> str:
    """Return what the weights depend on besides the data, as text."""
    rates = (LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING)
    return repr((FORMAT, FEATURES, THREADS, SEED, BATCH, *rates, BUDGET, EPOCHS, STEPS))


def _untrained(images: Tensor, classes: int) -> Classifier:
    channels, height, width = images.shape[1:]
    with Draws(SEED, Stream.EVALUATION).global_seed():
        return Classifier((channels, height, width), classes)


def _train(
    network: Classifier, name: str, images: Tensor, labels: Tensor, log: Callable[[str], None]
) -> None:
    steps = _steps(images)
    seconds = _seconds_per_step(network, images, labels)
    log(
        f"metrics: training a classifier on the labels of {name}, once,"
        f" about {math.ceil(steps * seconds)} s …"
    )
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.25, cycle_momentum=False
    )
    for _, indices in zip(range(steps), _batches(len(images)), strict=False):
        loss = _loss(network, images[indices], labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    network.eval()


def _steps(images: Tensor) -> int:
    channels, height, width = images.shape[1:]
    down, across = first_strides(height, width)
    # The time of a step grows with the number of positions in the first layer's output.
    positions = (height // down) * (width // across)
    most = max(STEPS, EPOCHS * len(images) // BATCH)
    return min(most, max(STEPS, BUDGET * channels // (positions * BATCH)))


def _batches(count: int) -> Iterator[Tensor]:
    """Yield the image indices of each batch, endlessly, with a new random order for each epoch."""
    waiting = torch.empty(0, dtype=torch.int64)
    epoch = 0
    while True:
        while len(waiting) < BATCH:
            order = Draws(SEED, Stream.EVALUATION, step=epoch, inner=1).numpy().permutation(count)
            waiting, epoch = torch.cat([waiting, torch.from_numpy(order)]), epoch + 1
        yield waiting[:BATCH]
        waiting = waiting[BATCH:]


def _loss(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    _, logits = network(_floats(images))
    return functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)


def _floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _seconds_per_step(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the time of the fastest of three steps on a copy, because the first step is slow."""
    trial, times = copy.deepcopy(network).train(), []
    for _ in range(3):
        start = time.perf_counter()
        _loss(trial, images[:BATCH], labels[:BATCH]).backward()
        times.append(time.perf_counter() - start)
    return min(times)


def _accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    correct = 0
    for chunk, classes in zip(images.split(512), labels.split(512), strict=True):
        _, logits = extract(network, _floats(chunk))
        correct += int((logits.argmax(dim=1) == classes).sum())
    return correct / len(images)

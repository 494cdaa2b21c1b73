"""A classifier of the data set's own labels, trained once and kept."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from wgan_cli.errors import DataError
from wgan_cli.metrics.classifier import FEATURES, SIDE, Classifier, extract, strides_of
from wgan_cli.randomness import Draws, Stream

# Part of every kept file's name: raise it with every change to the network or to its training.
FORMAT = 1
# The weights' bits depend on the number of threads, and a score must not depend on the machine's.
# One, because on a busy machine several spend their time waiting for each other.
THREADS = 1

SEED = 20171
BATCH = 128
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
# Training ends after so many positions of the map behind the first layer, times the channels:
# half an epoch of MNIST and one and a half of CIFAR-10, whose classes are harder to tell.
BUDGET = 7_000_000
# Small sets take fewer, but this many epochs or steps.
EPOCHS = 30
STEPS = 300


@dataclass(frozen=True)
class TrainedClassifier:
    """A trained network in eval mode on the CPU, and how far it can be trusted.

    `accuracy` is its share of right answers on the held-out images, `path` where it is kept (or
    would be, in a folder that cannot be written), `trained_now` whether this call trained it.
    """

    network: nn.Module
    accuracy: float
    path: Path
    trained_now: bool


def trained_classifier(
    name: str,
    train: Tensor,
    train_labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    cache: Path,
    tell: Callable[[str], None],
) -> TrainedClassifier:
    """The classifier of a data set's labels, read from the folder `cache` or trained and put there.

    Images uint8 (n, C, H, W), labels int64 (n,) from 0. The same data give the same weights
    whatever ran before, the number of threads in use and the global random state included, which
    are left as they are. `tell` gets a sentence before and after a training and about a kept file
    that is of no use. Raises DataError for images that are too small or all equal, labels of fewer
    than two classes and unequal numbers of images and labels.
    """
    _check(name, train, train_labels, held_out, held_out_labels)
    classes = int(train_labels.max()) + 1
    key = _key(train, train_labels, held_out, held_out_labels)
    path = cache / f"classifier-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{key[:16]}.pt"
    accuracy = _read(path, key, kept := _untrained(train, classes), tell)
    if accuracy is not None:
        return TrainedClassifier(kept.eval(), accuracy, path, trained_now=False)
    # Made anew: a file that fails half way has changed the other.
    network = _untrained(train, classes)
    with _threads(THREADS), torch.enable_grad():
        _train(network, name, train, train_labels, tell)
        accuracy = _accuracy(network, held_out, held_out_labels)
    place = _write(path, key, network, accuracy)
    tell(f"metrics: the classifier is right on {accuracy:.1%} of the held-out images; {place}")
    return TrainedClassifier(network, accuracy, path, trained_now=True)


def _check(
    name: str, train: Tensor, train_labels: Tensor, held_out: Tensor, held_out_labels: Tensor
) -> None:
    for images, labels in ((train, train_labels), (held_out, held_out_labels)):
        if len(images) != len(labels) or len(images) == 0:
            raise DataError(
                f"A classifier cannot be trained on {name}: it has {len(images)} images and"
                f" {len(labels)} labels."
            )
    if min(train.shape[2:]) < SIDE:
        raise DataError(
            f"A classifier cannot be trained on {name}: its images of"
            f" {train.shape[2]}x{train.shape[3]} are smaller than {SIDE}x{SIDE}."
        )
    if int(train_labels.min()) < 0 or len(train_labels.unique()) < 2:
        raise DataError(
            f"A classifier cannot be trained on {name}: its labels name fewer than two classes."
        )
    # In pieces: compared at once, they would need their own size in memory again.
    if all(bool((some == train[0]).all()) for some in train.split(512)):
        raise DataError(f"A classifier cannot be trained on {name}: all its images are equal.")


def _key(*tensors: Tensor) -> str:
    rates = (LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING)
    recipe = (FORMAT, FEATURES, THREADS, SEED, BATCH, *rates, BUDGET, EPOCHS, STEPS)
    digest = hashlib.sha256(repr(recipe).encode())
    for tensor in tensors:
        _add(digest, tensor)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().flatten().contiguous().numpy().data)


def _untrained(images: Tensor, classes: int) -> Classifier:
    channels, height, width = images.shape[1:]
    with Draws(SEED, Stream.EVALUATION).global_seed():
        return Classifier((channels, height, width), classes)


def _train(
    network: Classifier, name: str, images: Tensor, labels: Tensor, tell: Callable[[str], None]
) -> None:
    steps = _steps(images)
    one_step = _time_of_a_step(network, images, labels)
    tell(
        f"metrics: training a classifier on the labels of {name}, once,"
        f" about {math.ceil(steps * one_step)} s …"
    )
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.25, cycle_momentum=False
    )
    for _, places in zip(range(steps), _batches(len(images)), strict=False):
        loss = _loss(network, images[places], labels[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    network.eval()


def _steps(images: Tensor) -> int:
    most = max(STEPS, EPOCHS * len(images) // BATCH)
    return min(most, max(STEPS, BUDGET * images.shape[1] // (_positions(images) * BATCH)))


def _positions(images: Tensor) -> int:
    """Of the map behind the first layer, to which a step's time is proportional."""
    height, width = images.shape[2:]
    down, across = strides_of(height, width)
    return (height // down) * (width // across)


def _batches(count: int) -> Iterator[Tensor]:
    """Places of a batch's images, without end: all in random order, then again in another."""
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


def _time_of_a_step(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """Seconds on this machine, by the fastest of three on a copy: the first sets things up."""
    trial, times = copy.deepcopy(network).train(), []
    for _ in range(3):
        start = time.perf_counter()
        _loss(trial, images[:BATCH], labels[:BATCH]).backward()
        times.append(time.perf_counter() - start)
    return min(times)


def _accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    right = 0
    for some, answers in zip(images.split(512), labels.split(512), strict=True):
        _, logits = extract(network, _floats(some))
        right += int((logits.argmax(dim=1) == answers).sum())
    return right / len(images)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seal(key: str, weights: dict[str, Tensor], accuracy: float) -> str:
    digest = hashlib.sha256(f"{key} {accuracy!r}".encode())
    for name in sorted(weights):
        digest.update(name.encode())
        _add(digest, weights[name])
    return digest.hexdigest()


def _read(path: Path, key: str, network: Classifier, tell: Callable[[str], None]) -> float | None:
    """Fill the network from the file and return its accuracy; None where there is no good file."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        weights, accuracy = kept["weights"], kept["accuracy"]
        if kept["sha256"] != _seal(key, weights, accuracy):
            raise ValueError("not what was written")
        network.load_state_dict(weights)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # What a damaged or foreign file raises is anything from EOFError to UnpicklingError.
    except Exception:
        tell(f"metrics: {path} is damaged or no file of this program; the classifier is made anew.")
        return None
    return float(accuracy)


def _write(path: Path, key: str, network: Classifier, accuracy: float) -> str:
    """Keep the network; says where, or why not."""
    weights = dict(network.state_dict())
    stored = io.BytesIO()
    seal = _seal(key, weights, accuracy)
    torch.save({"weights": weights, "accuracy": accuracy, "sha256": seal}, stored)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under its own name first: another process may be writing or reading the same file.
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        try:
            with stored.getbuffer() as data:
                temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        return f"it is not kept, because {path.parent} cannot be written ({error.strerror})."
    return f"it is kept in {path}."

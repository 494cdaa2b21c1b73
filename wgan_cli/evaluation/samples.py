"""What evaluations compare: a set of samples, few for distances and many for features."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wgan_cli.data.dataset import FIXED_SEED, Dataset, Modes, held_out_halves
from wgan_cli.data.feeds import as_floats
from wgan_cli.errors import ConfigError, DivergedError
from wgan_cli.evaluation.sampling import BATCH, generate, parts
from wgan_cli.metrics.channel_classifier import trained_channel_classifier
from wgan_cli.metrics.classifier import extract
from wgan_cli.metrics.classifier_training import trained_classifier
from wgan_cli.metrics.inception import inception
from wgan_cli.metrics.neighbours import ball_radii
from wgan_cli.metrics.wasserstein import slices
from wgan_cli.randomness import Draws, Stream

log = logging.getLogger(__name__)

MANY = 10_000
# Images while training: a network's features of ten thousand take as long as a hundred steps.
MANY_WHILE_TRAINING = 2_000
# As many training images as the classifier gets at most: its training has no time for many more,
# and they are decoded into one tensor. Of large images only so many bytes, but at least a few.
_SEEN = 60_000
_SEEN_BYTES = 2**30
_LEAST_SEEN = 2_000
# Maps images (n, C, H, W) in [-1, 1] to features (n, d) and class logits (n, classes).
Network = Callable[[Tensor], tuple[Tensor, Tensor]]


class Samples:
    """Samples of one origin: `few` (n, *shape) on the device, and many more, batch by batch.

    `many` gives the same batches of floats whenever it is called, so that they need not be kept.
    `labels` (n,) are the classes of the few, for a critic that is conditional.
    """

    def __init__(
        self,
        few: Tensor,
        many: Callable[[], Iterable[Tensor]],
        labels: Tensor | None = None,
    ) -> None:
        self.few = few
        self.labels = labels
        self._many = many
        self._features: dict[str, tuple[Tensor, Tensor]] = {}
        self._radii: dict[str, Tensor] = {}
        self._slices: dict[Draws, np.ndarray] = {}

    @cached_property
    def points(self) -> Tensor:
        """All of the many at once, flattened, on the CPU: for points, which are small."""
        return torch.cat([part.flatten(1).cpu() for part in self._many()])

    def features(self, space: str, network: Network) -> tuple[Tensor, Tensor]:
        """Features (m, d) and logits (m, classes) of the many, on the CPU, extracted once."""
        if space not in self._features:
            parts = [extract(network, part) for part in self._many()]
            features, logits = (torch.cat(kind).cpu() for kind in zip(*parts, strict=True))
            self._features[space] = features, logits
        return self._features[space]

    def radii(self, space: str, points: Tensor) -> Tensor:
        """How far each of these samples' `points` in a space is from its neighbours, found once."""
        if space not in self._radii:
            self._radii[space] = ball_radii(points)
        return self._radii[space]

    def slices(self, draws: Draws) -> np.ndarray:
        """The few projected to the random lines of `draws`, sorted along each, found once."""
        if draws not in self._slices:
            self._slices[draws] = slices(self.few, draws)
        return self._slices[draws]


@dataclass(frozen=True)
class Counts:
    """How many samples of each kind: `few` for distances, `many` for features and modes."""

    few: int
    many: int


def sample_counts(
    dataset: Dataset, few: int | None = None, many: int | None = None, at_most: int = MANY
) -> Counts:
    """How many samples an evaluation takes: those asked for, or what there is, `many` `at_most`.

    Raises `ConfigError` where more are asked for than there are.
    """
    chosen, _ = held_out_halves(dataset, few)
    most, size = len(dataset.held_out), dataset.training_size
    if size is not None:
        most = min(most, size // 4)
    if many is None:
        many = min(at_most, most)
    if many > most:
        raise ConfigError(
            f"feature_samples={many} (wgan-eval --n-features) is too many for {dataset.name}:"
            f" at most {most}, for there are {len(dataset.held_out)} held-out samples, and a"
            " quarter of the training part is kept for the floor."
        )
    return Counts(len(chosen), many)


class Reference:
    """The real side of every comparison, the same samples in every evaluation.

    `real` are held-out samples. `other` are real too and disjoint from them: what they score
    against `real` is what as many samples of the truth score, the floor. The few of `other` are
    held out too. The many are training samples, from a fixed random quarter of the training part
    (at most 10,000) that the classifier is not trained on: features of images it has seen would
    not be those of new ones. `sample_counts` says how many there are of each. With `conditional`,
    samples come with their classes.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        cache: Path,
        few: int | None = None,
        many: int | None = None,
        *,
        conditional: bool = False,
    ) -> None:
        held_out = dataset.held_out
        self.counts = sample_counts(dataset, few, many)
        chosen, others = held_out_halves(dataset, self.counts.few)
        labels = dataset.labels.held_out if conditional and dataset.labels is not None else None
        self._order = _order(dataset)
        self.dataset = dataset
        self.device = device
        # The held-out part may come sorted by class.
        order = Draws(FIXED_SEED, Stream.EVALUATION, 4).numpy().permutation(len(held_out))
        places = torch.from_numpy(order[: self.counts.many]).sort().values
        self.real = Samples(
            as_floats(held_out[chosen].to(device)),
            lambda: self._batches(held_out[places]),
            None if labels is None else labels[chosen].to(device),
        )
        self.many_labels = None if labels is None else labels[places].to(device)
        self.other = Samples(as_floats(held_out[others].to(device)), self._training)
        self._cache = cache
        self._networks: dict[str, Network] = {}
        self.classifier_accuracy: float | None = None

    @property
    def modes(self) -> Modes | None:
        """The Gaussians of a mixture."""
        return self.dataset.modes

    @cached_property
    def class_counts(self) -> Tensor:
        """How many held-out samples each class has."""
        labels = self.dataset.labels
        assert labels is not None
        return labels.held_out.bincount(minlength=int(labels.train.max()) + 1)

    def network(self, space: str) -> Network:
        """The feature network, made ready once: `classifier` (of the labels) or `inception`.

        Raises `DataError` where Inception's weights are not there and cannot be fetched.
        """
        if space not in self._networks:
            self._networks[space] = (
                self._classifier() if space == "classifier" else self._inception()
            )
        return self._networks[space]

    def _classifier(self) -> Network:
        labels, data = self.dataset.labels, self.dataset
        assert labels is not None
        assert self._order is not None
        kept = max(self.counts.many, min(MANY, len(self._order) // 4))
        fitting = max(_SEEN_BYTES // math.prod(data.sample_shape), _LEAST_SEEN)
        seen = self._order[kept : kept + min(_SEEN, fitting)]
        shown = data.training_sample(seen), labels.train[seen], data.held_out, labels.held_out
        if labels.channel_classes is None:
            trained = trained_classifier(data.name, *shown, self._cache, log.info)
        else:
            trained = trained_channel_classifier(
                data.name, *shown, labels.channel_classes, self._cache, log.info
            )
        self.classifier_accuracy = trained.accuracy
        # Twice as fast on the CPU; that of the images is lost where they have one channel.
        return trained.network.to(memory_format=torch.channels_last).to(self.device)

    def _inception(self) -> Network:
        network = inception(fetch=True)
        log.info("metrics: Inception works on %d images of each kind.", self.counts.many)
        return network.to(self.device)

    def _training(self) -> Iterator[Tensor]:
        order = torch.arange(self.counts.many) if self._order is None else self._order
        return self._batches(self.dataset.training_sample(order[: self.counts.many]))

    def _batches(self, samples: Tensor) -> Iterator[Tensor]:
        return (as_floats(part.to(self.device)) for part in samples.split(BATCH))


def _order(dataset: Dataset) -> Tensor | None:
    """A fixed random order of the training part, which may come sorted; None for endless ones."""
    size = dataset.training_size
    if size is None:
        return None
    return torch.from_numpy(Draws(FIXED_SEED, Stream.EVALUATION, 1).numpy().permutation(size))


def generated(generator: nn.Module, latent_dim: int, reference: Reference, seed: int) -> Samples:
    """As many samples of a generator as the reference's, for noise that `seed` alone decides.

    In a conditional run they are of the classes of the held-out samples that they stand against.
    Raises `DivergedError` for NaN.
    """
    labels, many = reference.real.labels, reference.counts.many

    def draw(count: int, classes: Tensor | None, step: int, inner: int = 0) -> Tensor:
        # Step 1 of the stream is the critic's.
        draws = Draws(seed, Stream.EVALUATION, step, inner)
        latent = draws.normal((count, latent_dim), reference.device)
        samples = generate(generator, latent, classes)
        if not samples.isfinite().all():
            raise DivergedError("The generator's samples became NaN or infinite.")
        return samples

    def batches() -> Iterator[Tensor]:
        for inner, classes in enumerate(parts(reference.many_labels, many)):
            yield draw(min(BATCH, many - inner * BATCH), classes, 2, inner)

    return Samples(draw(reference.counts.few, labels, 0), batches, labels)

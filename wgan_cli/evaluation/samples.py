"""The sets of samples that evaluations compare, and the feature networks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from wgan_cli.data.dataset import FIXED_SEED, Dataset, held_out_halves
from wgan_cli.data.feeds import to_floats
from wgan_cli.errors import ConfigError, DivergedError
from wgan_cli.evaluation.sampling import BATCH, generate, label_batches
from wgan_cli.metrics.classifier import extract
from wgan_cli.metrics.classifier_training import trained_channel_classifier, trained_classifier
from wgan_cli.metrics.inception import inception
from wgan_cli.metrics.neighbours import ball_radii
from wgan_cli.metrics.wasserstein import sorted_projections
from wgan_cli.randomness import Draws, Stream

log = logging.getLogger(__name__)

# Default numbers of feature samples. Evaluations of images during training use the smaller number,
# because extracting the features of 10,000 images takes as long as a hundred steps.
MAX_FEATURE_SAMPLES = 10_000
MAX_FEATURE_SAMPLES_IN_TRAINING = 2_000
# Limits on the classifier's training images, which are decoded into one tensor: the largest number,
# the largest size in bytes, and a number that is allowed even if it needs more bytes.
_CLASSIFIER_IMAGES = 60_000
_CLASSIFIER_BYTES = 2**30
_MIN_CLASSIFIER_IMAGES = 2_000
# A function from images (n, C, H, W) in [-1, 1] to features (n, d) and logits (n, classes).
FeatureNetwork = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(eq=False)
class Samples:
    """Samples from one source: a small set for distances, and a large one for features and modes.

    `eval_set` (n, *shape) holds the evaluation samples, on the device. `feature_batches()` returns
    the feature samples in batches of floats. Every call returns the same samples, so they are not
    kept in memory. Features, radii and projections are kept, on the device too. `labels` (n,) are
    the classes of `eval_set`, for a conditional critic.
    """

    eval_set: Tensor
    feature_batches: Callable[[], Iterable[Tensor]]
    labels: Tensor | None = None
    _features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    _radii: dict[str, Tensor] = field(default_factory=dict, init=False)
    _projections: dict[Draws, Tensor] = field(default_factory=dict, init=False)

    @cached_property
    def points(self) -> Tensor:
        """All feature samples, flattened to (m, d); only for data sets of points."""
        return torch.cat([batch.flatten(1) for batch in self.feature_batches()])

    def features(self, space: str, network: FeatureNetwork) -> tuple[Tensor, Tensor]:
        """Return features (m, d) and logits (m, classes), cached per space."""
        if space not in self._features:
            batches = [extract(network, batch) for batch in self.feature_batches()]
            features, logits = (torch.cat(outputs) for outputs in zip(*batches, strict=True))
            self._features[space] = features, logits
        return self._features[space]

    def radii(self, space: str, points: Tensor) -> Tensor:
        """Return `ball_radii(points)`, cached per `space`.

        `points` must be the features of these samples in that space.
        """
        if space not in self._radii:
            self._radii[space] = ball_radii(points)
        return self._radii[space]

    def sorted_projections(self, draws: Draws) -> Tensor:
        """Return the `sorted_projections` of `eval_set`, cached per `draws`."""
        if draws not in self._projections:
            self._projections[draws] = sorted_projections(self.eval_set, draws)
        return self._projections[draws]


@dataclass(frozen=True)
class SampleCounts:
    """The number of evaluation samples (for distances), and the number of feature samples."""

    eval_samples: int
    feature_samples: int


def sample_counts(
    dataset: Dataset,
    eval_samples: int | None = None,
    feature_samples: int | None = None,
    max_feature_samples: int = MAX_FEATURE_SAMPLES,
) -> SampleCounts:
    """Return the sample counts of an evaluation. An argument that is None has a default.

    The default of `feature_samples` is `max_feature_samples`, or less for small data sets. Raises
    `ConfigError` if the data set has fewer samples than requested.
    """
    chosen, _ = held_out_halves(dataset, eval_samples)
    most, size = len(dataset.held_out), dataset.training_size
    if size is not None:
        most = min(most, size // 4)
    if feature_samples is None:
        feature_samples = min(max_feature_samples, most)
    if feature_samples > most:
        raise ConfigError(
            f"feature_samples={feature_samples} (wgan-eval --n-features) is too many for"
            f" {dataset.name}: at most {most}, because there are {len(dataset.held_out)} held-out"
            " samples, and a quarter of the training part is reserved for the floor."
        )
    return SampleCounts(len(chosen), feature_samples)


class Reference:
    """The real samples of evaluations, the same in every evaluation.

    `real` are held-out samples. `floor_samples` are other real samples: their score against `real`
    is the floor of a metric, the best score that a generator can expect from as many samples. The
    evaluation samples of `floor_samples` are also held out. The feature samples of `floor_samples`
    are training samples from a fixed random quarter of the training part (at most 10,000). The
    classifier is not trained on this quarter, because its features of training images differ from
    those of new images. `sample_counts` returns the numbers of samples. With `conditional`, the
    classes of `real` are kept too.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        cache: Path | None,
        eval_samples: int | None = None,
        feature_samples: int | None = None,
        *,
        conditional: bool = False,
    ) -> None:
        held_out = dataset.held_out
        self.counts = sample_counts(dataset, eval_samples, feature_samples)
        chosen, others = held_out_halves(dataset, self.counts.eval_samples)
        labels = dataset.labels.held_out if conditional and dataset.labels is not None else None
        size = dataset.training_size
        # A fixed random order. Endless data sets have no order and accept any indices.
        self._training_order = (
            torch.arange(self.counts.feature_samples)
            if size is None
            else torch.from_numpy(Draws(FIXED_SEED, Stream.EVALUATION, 1).numpy().permutation(size))
        )
        self.dataset = dataset
        self.device = device
        # Choose at random: the held-out part may be sorted by class.
        order = Draws(FIXED_SEED, Stream.EVALUATION, 4).numpy().permutation(len(held_out))
        indices = torch.from_numpy(order[: self.counts.feature_samples]).sort().values
        self.real = Samples(
            to_floats(held_out[chosen].to(device)),
            lambda: self._batches(held_out[indices]),
            None if labels is None else labels[chosen].to(device),
        )
        self.feature_labels = None if labels is None else labels[indices].to(device)
        training = self._training_order[: self.counts.feature_samples]
        self.floor_samples = Samples(
            to_floats(held_out[others].to(device)),
            lambda: self._batches(dataset.training_sample(training)),
        )
        self._cache = cache
        self._networks: dict[str, FeatureNetwork] = {}
        self.classifier_accuracy: float | None = None

    @cached_property
    def class_counts(self) -> Tensor:
        """The number of held-out samples of each class, (classes,)."""
        labels = self.dataset.labels
        assert labels is not None
        return labels.held_out.bincount(minlength=int(labels.train.max()) + 1)

    def network(self, space: str) -> FeatureNetwork:
        """Return the feature network `classifier` (trained on the labels) or `inception`.

        The first call trains or loads the network. Raises `DataError` if Inception's weights are
        missing.
        """
        if space not in self._networks:
            if space == "classifier":
                self._networks[space] = self._classifier()
            else:
                self._networks[space] = inception().to(self.device)
                log.info(
                    "metrics: Inception works on %d images of each kind.",
                    self.counts.feature_samples,
                )
        return self._networks[space]

    def _classifier(self) -> FeatureNetwork:
        labels, data = self.dataset.labels, self.dataset
        assert labels is not None
        reserved = max(
            self.counts.feature_samples, min(MAX_FEATURE_SAMPLES, len(self._training_order) // 4)
        )
        within_bytes = max(
            _CLASSIFIER_BYTES // math.prod(data.sample_shape), _MIN_CLASSIFIER_IMAGES
        )
        chosen = self._training_order[reserved:][: min(_CLASSIFIER_IMAGES, within_bytes)]
        train = data.training_sample(chosen), labels.train[chosen]
        held_out = data.held_out, labels.held_out
        classes = labels.channel_classes
        if classes is None:
            trained = trained_classifier(data.name, train, held_out, self._cache, log.info)
        else:
            trained = trained_channel_classifier(
                data.name, train, held_out, classes, self._cache, log.info
            )
        self.classifier_accuracy = trained.accuracy
        # The channels-last layout is twice as fast on the CPU. Set it for the weights, because
        # images with one channel do not select this layout.
        return trained.network.to(memory_format=torch.channels_last).to(self.device)

    def _batches(self, samples: Tensor) -> Iterator[Tensor]:
        return (to_floats(batch.to(self.device)) for batch in samples.split(BATCH))


def generated(generator: nn.Module, latent_dim: int, reference: Reference, seed: int) -> Samples:
    """Generate as many samples as the reference has. The noise depends only on `seed`.

    A conditional generator uses the classes of the reference's held-out samples. Raises
    `DivergedError` if samples are NaN or infinite.
    """
    labels, count = reference.real.labels, reference.counts.feature_samples

    def draw(size: int, classes: Tensor | None, step: int, inner: int = 0) -> Tensor:
        # Step 1 of the stream is used by `Comparison.steepest_slope`.
        draws = Draws(seed, Stream.EVALUATION, step, inner)
        latent = draws.normal((size, latent_dim), reference.device)
        samples = generate(generator, latent, classes)
        if not samples.isfinite().all():
            raise DivergedError("The generator's samples became NaN or infinite.")
        return samples

    def batches() -> Iterator[Tensor]:
        for index, classes in enumerate(label_batches(reference.feature_labels, count)):
            yield draw(min(BATCH, count - index * BATCH), classes, 2, index)

    return Samples(draw(reference.counts.eval_samples, labels, 0), batches, labels)

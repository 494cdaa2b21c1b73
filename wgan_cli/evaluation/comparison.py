"""One set of samples beside the reference: the numbers that several metrics share, each once."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor, nn

from wgan_cli.constraints import Constraint
from wgan_cli.evaluation.samples import Reference, Samples
from wgan_cli.evaluation.sampling import BATCH, evaluating, given, parts
from wgan_cli.metrics.lipschitz import gradient_norms
from wgan_cli.metrics.neighbours import precision_recall
from wgan_cli.randomness import Draws, Stream


class Comparison:
    """`shown` against the reference, and what `critic` makes of both.

    `constraint` is what holds the critic, `seed` decides the random points and directions.
    """

    def __init__(
        self,
        reference: Reference,
        shown: Samples,
        critic: nn.Module,
        *,
        seed: int,
        constraint: Constraint | None = None,
    ) -> None:
        self.reference = reference
        self.shown = shown
        self.critic = critic
        self.constraint = constraint
        self.seed = seed
        self._neighbours: dict[str, tuple[float, float]] = {}

    @property
    def real(self) -> Tensor:
        """The few held-out samples, (n, *shape)."""
        return self.reference.real.few

    @property
    def fake(self) -> Tensor:
        """The few that stand against them, (n, *shape)."""
        return self.shown.few

    @cached_property
    def estimate(self) -> float:
        """E f(real) - E f(fake) of the critic. Raises ValueError where it is not finite."""
        with evaluating(self.critic):
            found = self._mean_score(self.reference.real) - self._mean_score(self.shown)
        return _finite(found, "the critic's score")

    @cached_property
    def steepest(self) -> float:
        """The largest gradient norm seen between the two: a lower bound of K.

        A conditional critic has one for each class, and a pair is of one class. Raises ValueError
        where it is not finite.
        """
        classes = parts(self.reference.real.labels, len(self.real))
        pairs = zip(self.real.split(BATCH), self.fake.split(BATCH), classes, strict=True)
        with evaluating(self.critic):
            norms = [
                gradient_norms(given(self.critic, labels), real, fake, self.draws(batch)).max()
                for batch, (real, fake, labels) in enumerate(pairs)
            ]
        return _finite(float(torch.stack(norms).max()), "the critic's gradient")

    @property
    def normalized(self) -> float:
        """The estimate over K, known by construction or else the steepest slope seen.

        Raises ValueError where the critic is flat.
        """
        known: float | None = getattr(self.critic, "lipschitz_constant", None)
        constant = self.steepest if known is None else known
        if constant == 0:
            raise ValueError("the critic is flat wherever it was looked at, so it has no scale")
        return self.estimate / constant

    def features(self, space: str) -> tuple[Tensor, Tensor]:
        """Features of the many held-out samples and of those that stand against them, (m, d)."""
        network = self.reference.network(space)
        real, _ = self.reference.real.features(space, network)
        shown, _ = self.shown.features(space, network)
        return real, shown

    def logits(self, space: str) -> Tensor:
        """What the feature network takes the shown samples for, (m, classes)."""
        return self.shown.features(space, self.reference.network(space))[1]

    @cached_property
    def class_counts(self) -> Tensor:
        """How many of the shown samples the classifier takes for each class."""
        classes = len(self.reference.class_counts)
        return self.logits("classifier").argmax(dim=1).bincount(minlength=classes)

    def neighbours(self, space: str) -> tuple[float, float]:
        """Precision and recall in `pixel` space, of the few, or in a network's, of the many."""
        if space not in self._neighbours:
            pair = (self.real, self.fake) if space == "pixel" else self.features(space)
            reach = self.reference.real.radii(space, pair[0])
            self._neighbours[space] = precision_recall(*pair, real_radii=reach)
        return self._neighbours[space]

    def draws(self, inner: int) -> Draws:
        """Random numbers of this comparison; steps 0 and 2 of the stream are latent noise."""
        return Draws(self.seed, Stream.EVALUATION, step=1, inner=inner)

    @torch.no_grad()
    def _mean_score(self, samples: Samples) -> float:
        pieces = zip(samples.few.split(BATCH), parts(samples.labels, len(samples.few)), strict=True)
        scores = [given(self.critic, labels)(part).double() for part, labels in pieces]
        return float(torch.cat(scores).mean())


def _finite(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{what} is NaN or infinite")
    return value

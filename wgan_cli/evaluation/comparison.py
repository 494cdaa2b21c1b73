"""Compares samples with the reference, and caches results that several metrics share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from wgan_cli.constraints import Constraint
from wgan_cli.evaluation.samples import Reference, Samples
from wgan_cli.evaluation.sampling import BATCH, evaluating, label_batches
from wgan_cli.float64 import in_float64
from wgan_cli.metrics.lipschitz import gradient_norms
from wgan_cli.metrics.neighbours import precision_recall
from wgan_cli.models.conditional import with_labels
from wgan_cli.randomness import Draws, Stream


@dataclass(eq=False)
class Comparison:
    """Compares the samples `candidate` with the reference, directly and by the critic's scores.

    `constraint` is the critic's constraint. `seed` determines random points and directions.
    """

    reference: Reference
    candidate: Samples
    critic: nn.Module
    seed: int
    constraint: Constraint | None = None
    _neighbours: dict[str, tuple[float, float]] = field(default_factory=dict, init=False)

    @property
    def real(self) -> Tensor:
        """The held-out evaluation samples, (n, *shape)."""
        return self.reference.real.eval_set

    @property
    def fake(self) -> Tensor:
        """The candidate's evaluation samples, (n, *shape)."""
        return self.candidate.eval_set

    @cached_property
    def estimate(self) -> float:
        """The critic's estimate E f(real) - E f(fake). Raises ValueError if it is not finite."""
        with evaluating(self.critic):
            difference = self._mean_score(self.reference.real) - self._mean_score(self.candidate)
        return finite(difference, "the critic's score")

    @cached_property
    def steepest_slope(self) -> float:
        """The largest norm of the critic's gradient at random points between real and fake samples.

        The norm is a lower bound of the critic's Lipschitz constant K. Each point lies between one
        real and one fake sample; for a conditional critic, both samples have the same class. Raises
        ValueError if the norm is NaN or infinite.
        """
        classes = label_batches(self.reference.real.labels, len(self.real))
        pairs = zip(self.real.split(BATCH), self.fake.split(BATCH), classes, strict=True)
        norms = []
        with evaluating(self.critic):
            for batch, (real, fake, labels) in enumerate(pairs):
                # Use step 1 of the stream, because `generated` uses steps 0 and 2.
                draws = Draws(self.seed, Stream.EVALUATION, step=1, inner=batch)
                critic = with_labels(self.critic, labels)
                norms.append(gradient_norms(critic, real, fake, draws).max())
        return finite(float(torch.stack(norms).max()), "the critic's gradient")

    @property
    def normalized(self) -> float:
        """`estimate` divided by the critic's Lipschitz constant.

        If the constant is not known, divide by `steepest_slope`, the largest measured gradient
        norm. Raises ValueError if the divisor is 0.
        """
        known: float | None = getattr(self.critic, "lipschitz_constant", None)
        constant = self.steepest_slope if known is None else known
        if constant == 0:
            raise ValueError(
                "the critic's gradient is 0 at every measured point, so there is no slope to divide"
                " by"
            )
        return self.estimate / constant

    def features(self, space: str) -> tuple[Tensor, Tensor]:
        """Return the features (m, d) of the reference's and of the candidate's feature samples."""
        network = self.reference.network(space)
        real, _ = self.reference.real.features(space, network)
        fake, _ = self.candidate.features(space, network)
        return real, fake

    def logits(self, space: str) -> Tensor:
        """Return the feature network's logits (m, classes) for the candidate's feature samples."""
        return self.candidate.features(space, self.reference.network(space))[1]

    @cached_property
    def class_counts(self) -> Tensor:
        """The number of feature samples that the classifier puts in each class, on the CPU."""
        classes = len(self.reference.class_counts)
        return self.logits("classifier").argmax(dim=1).bincount(minlength=classes).cpu()

    def neighbours(self, space: str) -> tuple[float, float]:
        """Return precision and recall in a space, cached per space.

        If `space` is `pixel`, the evaluation samples are compared. Otherwise `space` is the name of
        a feature network, and the features of the feature samples are compared.
        """
        if space not in self._neighbours:
            pair = (self.real, self.fake) if space == "pixel" else self.features(space)
            radii = self.reference.real.radii(space, pair[0])
            self._neighbours[space] = precision_recall(*pair, real_radii=radii)
        return self._neighbours[space]

    @torch.no_grad()
    def _mean_score(self, samples: Samples) -> float:
        classes = label_batches(samples.labels, len(samples.eval_set))
        batches = zip(samples.eval_set.split(BATCH), classes, strict=True)
        scores = [in_float64(with_labels(self.critic, labels)(batch)) for batch, labels in batches]
        return float(torch.cat(scores).mean())


def finite(value: float, what: str = "it") -> float:
    """Return the value as a float. Raises ValueError if it is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{what} is NaN or infinite")
    return float(value)

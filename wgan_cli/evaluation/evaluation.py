"""An evaluation: the chosen metrics of a generator and a critic, with floors and costs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from wgan_cli.constraints import Constraint
from wgan_cli.evaluation.comparison import Comparison
from wgan_cli.evaluation.registry import TABLE, Metric, sized
from wgan_cli.evaluation.samples import Reference, generated
from wgan_cli.schema import METRICS

log = logging.getLogger(__name__)
_SLOW = 5.0
# So many samples take the assignment of exact W1 over a second.
_MANY_PAIRS = 1500


@dataclass
class EvaluationResult:
    """What one evaluation found.

    `values` by tag; `raw` the same of the generator beside its average, where there is one and the
    metric is cheap; `floors` what other real samples score; `pictures` RGB by tag. `seconds` by
    metric, and `samples` for drawing what is shared. `refused` says why a metric gave no number.
    """

    values: dict[str, float] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    n: int = 0

    def scalars(self) -> dict[str, float]:
        """Everything that is a curve: values, floors, n and the evaluation's time."""
        curves = dict(self.values)
        curves.update({f"{tag}_raw": value for tag, value in self.raw.items()})
        curves.update({f"{tag}_real_real": floor for tag, floor in self.floors.items()})
        if "wasserstein/exact" in self.values:
            curves["wasserstein/exact_n"] = self.n
        curves["throughput/evaluation_seconds"] = sum(self.seconds.values())
        return curves


class Evaluation:
    """The chosen metrics, on the same held-out samples and the same noise every time.

    `constraint` is what holds the critic. `watch` is told each metric before it starts, and whether
    it takes long.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        reference: Reference,
        latent_dim: int,
        seed: int,
        constraint: Constraint | None = None,
        watch: Callable[[str, bool], None] | None = None,
    ) -> None:
        self.metrics = metrics
        self.reference = reference
        self.latent_dim = latent_dim
        self.seed = seed
        self.constraint = constraint
        self.watch = watch or _say_if_slow
        self._floors: dict[str, float] = {}
        self._costs: dict[str, float] = {}

    def prepare(self) -> None:
        """Make feature networks ready, which can take minutes. Raises `DataError`."""
        for space in dict.fromkeys(TABLE[tag].network for tag in self.metrics):
            if space is not None:
                self.reference.network(space)

    def __call__(
        self, generator: nn.Module, critic: nn.Module, raw: nn.Module | None = None
    ) -> EvaluationResult:
        """Measure `generator`, and `raw` beside it by what needs no critic and no feature network.

        Raises `DivergedError` where the samples are NaN or infinite.
        """
        found = EvaluationResult(n=self.reference.counts.few)
        started = time.perf_counter()
        comparison = self._compared(generator, critic)
        alone = [tag for tag in self.metrics if _looks_at_samples_alone(tag)]
        beside = None if raw is None or not alone else self._compared(raw, critic)
        found.seconds["samples"] = time.perf_counter() - started
        floor = Comparison(self.reference, self.reference.other, critic, seed=self.seed)
        for tag in self.metrics:
            self.watch(tag, self._slow(tag))
            started = time.perf_counter()
            try:
                self._measure(tag, TABLE[tag], comparison, floor, found)
            except ValueError as error:
                found.refused[tag] = str(error)
            if beside is not None and tag in alone:
                self._measure_beside(tag, TABLE[tag], beside, found)
            found.seconds[tag] = self._costs[tag] = time.perf_counter() - started
        return found

    def _measure(
        self,
        tag: str,
        metric: Metric,
        comparison: Comparison,
        real: Comparison,
        found: EvaluationResult,
    ) -> None:
        name = sized(tag, metric, self.reference.counts)
        if metric.number is not None:
            if METRICS[tag].has_floor and tag not in self._floors:
                self._floors[tag] = float(metric.number(real))
            found.values[name] = _finite(metric.number(comparison))
            if METRICS[tag].has_floor:
                found.floors[name] = self._floors[tag]
        if metric.picture is not None:
            found.pictures[metric.picture_tag or tag] = metric.picture(comparison)

    def _measure_beside(
        self, tag: str, metric: Metric, beside: Comparison, found: EvaluationResult
    ) -> None:
        assert metric.number is not None
        try:
            found.raw[sized(tag, metric, self.reference.counts)] = _finite(metric.number(beside))
        except ValueError as error:
            found.refused[f"{tag}_raw"] = str(error)

    def _compared(self, generator: nn.Module, critic: nn.Module) -> Comparison:
        shown = generated(generator, self.latent_dim, self.reference, self.seed)
        return Comparison(self.reference, shown, critic, seed=self.seed, constraint=self.constraint)

    def _slow(self, tag: str) -> bool:
        """By what it took last time; at first, by what it works on."""
        if tag in self._costs:
            return self._costs[tag] > _SLOW
        return TABLE[tag].network is not None or (
            tag == "wasserstein/exact" and self.reference.counts.few > _MANY_PAIRS
        )


def _looks_at_samples_alone(tag: str) -> bool:
    """Whether a number needs neither the critic (it has a floor) nor a feature network."""
    metric = TABLE[tag]
    return metric.number is not None and METRICS[tag].has_floor and metric.network is None


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("it is NaN or infinite")
    return float(value)


def _say_if_slow(metric: str, slow: bool) -> None:
    if slow:
        log.info("evaluating %s ...", metric)

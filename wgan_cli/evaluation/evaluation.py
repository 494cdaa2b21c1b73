"""Evaluates a generator and a critic by the chosen metrics.

A metric that needs no critic also has a floor, which is the score of other real samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from wgan_cli.constraints import Constraint
from wgan_cli.evaluation.comparison import Comparison, finite
from wgan_cli.evaluation.registry import TABLE, sized
from wgan_cli.evaluation.samples import Reference, generated
from wgan_cli.schema import METRICS

log = logging.getLogger(__name__)
# A metric that took longer than this is logged before it starts again.
_SLOW_SECONDS = 5.0
# With more samples than this, exact W1 takes over a second.
_SLOW_ASSIGNMENT = 1500


def _log_if_slow(metric: str, slow: bool) -> None:
    if slow:
        log.info("evaluating %s ...", metric)


@dataclass
class EvaluationResult:
    """The results of one evaluation. The keys of all dicts are metric tags.

    `values` are the scores of the evaluated generator. If this generator is a moving average of the
    weights, `raw` holds the scores with the current weights, for metrics that need only samples.
    `floors` are the scores of other real samples, `pictures` are RGB arrays, and `failures` are the
    reasons for missing values. `seconds` is the time of each metric; its key `samples` is the time
    to generate the samples. `n` is the number of evaluation samples.
    """

    values: dict[str, float] = field(default_factory=dict)
    raw: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    n: int = 0

    def scalars(self) -> dict[str, float]:
        """Return the scalars to log, by tag: values, floors, sample count and total time."""
        curves = dict(self.values)
        curves.update({f"{tag}_raw": value for tag, value in self.raw.items()})
        curves.update({f"{tag}_real_real": floor for tag, floor in self.floors.items()})
        if "wasserstein/exact" in self.values:
            curves["wasserstein/exact_n"] = self.n
        curves["throughput/evaluation_seconds"] = sum(self.seconds.values())
        return curves


@dataclass(eq=False)
class Evaluation:
    """Computes the chosen metrics, with the same held-out samples and the same noise each time.

    `constraint` is the critic's constraint. `on_metric(tag, slow)` is called before each metric;
    `slow` is True if the metric is expected to take long.
    """

    metrics: Sequence[str]
    reference: Reference
    latent_dim: int
    seed: int
    constraint: Constraint | None = None
    on_metric: Callable[[str, bool], None] = _log_if_slow
    _floors: dict[str, float] = field(default_factory=dict, init=False)
    _last_seconds: dict[str, float] = field(default_factory=dict, init=False)

    def prepare(self) -> None:
        """Load or train feature networks (this can take minutes). Raises `DataError` on failure."""
        for space in dict.fromkeys(TABLE[tag].network for tag in self.metrics):
            if space is not None:
                self.reference.network(space)

    def __call__(
        self, generator: nn.Module, critic: nn.Module, raw: nn.Module | None = None
    ) -> EvaluationResult:
        """Return all metrics of `generator`, and for `raw` the metrics that need only samples.

        Raises `DivergedError` if the samples are NaN or infinite.
        """
        result = EvaluationResult(n=self.reference.counts.eval_samples)
        started = time.perf_counter()
        comparison = self._comparison(generator, critic)
        # A metric with a floor needs no critic.
        without_network = [tag for tag in self.metrics if TABLE[tag].network is None]
        raw_metrics = [tag for tag in without_network if METRICS[tag].has_floor]
        raw_comparison = None if raw is None or not raw_metrics else self._comparison(raw, critic)
        result.seconds["samples"] = time.perf_counter() - started
        floor = Comparison(self.reference, self.reference.floor_samples, critic, seed=self.seed)
        for tag in self.metrics:
            self.on_metric(tag, self._slow(tag))
            started = time.perf_counter()
            try:
                self._measure(tag, comparison, floor, result)
            except ValueError as error:
                result.failures[tag] = str(error)
            number = TABLE[tag].number
            if raw_comparison is not None and tag in raw_metrics and number is not None:
                name = sized(tag, TABLE[tag], self.reference.counts)
                try:
                    result.raw[name] = finite(number(raw_comparison))
                except ValueError as error:
                    result.failures[f"{tag}_raw"] = str(error)
            result.seconds[tag] = self._last_seconds[tag] = time.perf_counter() - started
        return result

    def _measure(
        self, tag: str, comparison: Comparison, floor: Comparison, result: EvaluationResult
    ) -> None:
        metric = TABLE[tag]
        name = sized(tag, metric, self.reference.counts)
        if metric.number is not None:
            if METRICS[tag].has_floor and tag not in self._floors:
                self._floors[tag] = float(metric.number(floor))
            result.values[name] = finite(metric.number(comparison))
            if METRICS[tag].has_floor:
                result.floors[name] = self._floors[tag]
        if metric.picture is not None:
            result.pictures[metric.picture_tag or tag] = metric.picture(comparison)

    def _comparison(self, generator: nn.Module, critic: nn.Module) -> Comparison:
        samples = generated(generator, self.latent_dim, self.reference, self.seed)
        return Comparison(
            self.reference, samples, critic, seed=self.seed, constraint=self.constraint
        )

    def _slow(self, tag: str) -> bool:
        """Predict if a metric is slow, from its last time or, the first time, from its inputs."""
        if tag in self._last_seconds:
            return self._last_seconds[tag] > _SLOW_SECONDS
        return TABLE[tag].network is not None or (
            tag == "wasserstein/exact" and self.reference.counts.eval_samples > _SLOW_ASSIGNMENT
        )

"""Rank settings by their means over seeds, and test whether the best margin may be chance."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from wgan_cli.errors import ConfigError
from wgan_cli.report.runs import Run
from wgan_cli.report.settings import ABSENT
from wgan_cli.report.varying_settings import VaryingSettings
from wgan_cli.schema import CURVES, METRICS
from wgan_cli.validation import nearest

EXACT = "wasserstein/exact"
ESTIMATE = "critic/wasserstein"
FLOOR, RAW = "_real_real", "_raw"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed, and their values of the ranking tag.

    `values` are those of the varying settings, and `label` shows them as overrides. `counted` are
    the finished runs that have the tag, one for each seed, and `numbers` their values of it.
    `floor` is the mean of the values that real data score.
    """

    label: str
    values: tuple[Hashable, ...]
    runs: tuple[Run, ...]
    counted: tuple[Run, ...]
    numbers: tuple[float, ...]
    floor: float | None

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.numbers)

    @property
    def mean(self) -> float | None:
        """The mean over seeds."""
        return statistics.fmean(self.numbers) if self.numbers else None

    @property
    def sd(self) -> float | None:
        """The sample standard deviation over seeds (n − 1), None for fewer than two."""
        return statistics.stdev(self.numbers) if self.n > 1 else None


@dataclass(frozen=True)
class Margin:
    """How much better one group's mean is than another's, with Welch's interval (low, high)."""

    amount: float
    interval: tuple[float, float] | None

    @property
    def significant(self) -> bool:
        """Whether the margin exceeds the spread over seeds: the interval does not include 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def higher_is_better(tag: str) -> bool | None:
    """Return whether a higher value of the tag is better; None where that is not known.

    The tag may end with a sample count, as in `metrics/fid_classifier_10k`.
    """
    tag = tag.removesuffix(RAW).removesuffix(FLOOR)
    if tag in CURVES:
        return CURVES[tag]
    if tag not in METRICS:
        tag = re.sub(r"_\d+k?$", "", tag)
    return METRICS[tag].higher_is_better if tag in METRICS else None


def floor_tag(tag: str) -> str:
    """Return the tag of the value that real data score on this metric."""
    return tag.removesuffix(RAW) + FLOOR


def is_metric(tag: str) -> bool:
    """Return whether the tag measures the model, so it is no floor, sample count or speed."""
    return not tag.endswith((FLOOR, "_n")) and not tag.startswith("throughput/")


def rank_tag(runs: Sequence[Run], by: str | None) -> str | None:
    """Return the tag that ranks: `by`, else `wasserstein/exact`, else the first common metric.

    A common metric is one that all finished runs have. Returns None where no run has a number.
    Raises `ConfigError` where no run has `by`.
    """
    tags = list(dict.fromkeys(tag for run in runs for tag in run.final))
    if by is not None:
        if by not in tags:
            known = ", ".join(filter(is_metric, tags)) or "none"
            raise ConfigError(
                f"--by {by}: no run has this tag.{nearest(by, tags)} Known tags: {known}."
            )
        return by
    if EXACT in tags:
        return EXACT
    metrics = sorted(
        filter(is_metric, tags),
        key=lambda tag: (higher_is_better(tag) is None, tag.startswith(("critic", "gen"))),
    )
    finished = [run for run in runs if run.finished]
    shared = [tag for tag in metrics if all(tag in run.final for run in finished)]
    return next(iter(shared or metrics), None)


def groups_by_rank(
    runs: Sequence[Run], varying: VaryingSettings, tag: str | None
) -> list[SeedGroup]:
    """Return groups, the best mean first, then those without a mean, then those that failed.

    For a tag whose direction is unknown, groups with a mean stay in the order of their runs.
    """
    by_values: dict[tuple[Hashable, ...], list[Run]] = {}
    for run in runs:
        by_values.setdefault(varying.values(run), []).append(run)
    groups = [_seed_group(varying, values, same, tag) for values, same in by_values.items()]
    sign = {True: -1, False: 1, None: 0}[higher_is_better(tag or "")]

    def order(group: SeedGroup) -> tuple[bool, float, bool]:
        mean = group.mean
        return mean is None, sign * (mean or 0), all(run.failed for run in group.runs)

    return sorted(groups, key=order)


def _seed_group(
    varying: VaryingSettings, values: tuple[Hashable, ...], runs: Sequence[Run], tag: str | None
) -> SeedGroup:
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.ended):
        if run.finished and tag in run.final:
            newest[str(run.seed)] = run
    counted = [run for run in runs if newest.get(str(run.seed)) is run]
    measured = counted or [run for run in runs if not run.failed]
    floor = floor_tag(tag or "")
    floors = [run.final[floor] for run in measured if floor in run.final]
    return SeedGroup(
        label=varying.label(values) or ("(as most runs)" if varying.common else "(all the same)"),
        values=values,
        runs=tuple(runs),
        counted=tuple(counted),
        numbers=tuple(run.final[tag or ""] for run in counted),
        floor=statistics.fmean(floors) if floors else None,
    )


def margin(better: SeedGroup, other: SeedGroup, tag: str) -> Margin | None:
    """Return how much better one group's mean is than another's.

    None where one has no mean, or where it is unknown which direction is better. The margin has
    Welch's interval where both groups have at least two seeds.

    Welch (1947): with vᵢ = sᵢ²/nᵢ, the difference of the means ± t·√(v₁ + v₂), where t is the
    quantile of Student's distribution with (v₁ + v₂)² / (v₁²/(n₁ − 1) + v₂²/(n₂ − 1)) degrees of
    freedom.
    """
    higher = higher_is_better(tag)
    if better.mean is None or other.mean is None or higher is None:
        return None
    amount = better.mean - other.mean if higher else other.mean - better.mean
    if better.n < 2 or other.n < 2:
        return Margin(amount, None)
    v1, v2 = (statistics.variance(group.numbers) / group.n for group in (better, other))
    if v1 + v2 == 0:
        return Margin(amount, (amount, amount))
    freedom = (v1 + v2) ** 2 / (v1**2 / (better.n - 1) + v2**2 / (other.n - 1))
    half_width = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(v1 + v2)
    return Margin(amount, (amount - half_width, amount + half_width))


def conclusion(groups: Sequence[SeedGroup], tag: str | None) -> str:
    """Return a sentence: whether the best group's margin exceeds the spread over seeds."""
    ranked = [group for group in groups if group.mean is not None]
    if tag is None or not ranked:
        return "No run has finished with a number to rank by."
    if len(groups) == 1:
        (group,) = groups
        deviation = f" ± {number(group.sd)}" if group.sd is not None else ""
        return (
            "All runs have the same settings but for the seed:"
            f" {number(group.mean)}{deviation}, n = {group.n}."
        )
    if len(ranked) == 1:
        return f"Only {ranked[0].label} has finished: there is nothing to compare it with."
    if higher_is_better(tag) is None:
        return (
            f"Not ranked: it is unknown whether more or less of {tag} is better, so settings are in"
            " the order of their runs. Rank by another tag with --by, or, for a metric of your own,"
            " state higher_is_better in wgan_cli/schema/metrics.py."
        )
    best, second = ranked[:2]
    lead = margin(best, second, tag)
    assert lead is not None, "both have a mean, and the direction is known"
    side = "higher" if higher_is_better(tag) else "lower"
    summary = f"Best: {best.label}, {number(lead.amount)} {side} than the next, {second.label}"
    if lead.amount == 0:
        return f"The two best, {best.label} and {second.label}, score the same."
    if lead.interval is None:
        single = best if best.n < 2 else second
        return (
            f"{summary}. Whether this is chance cannot be said, as {single.label} has one seed: add"
            " some (seed=0,1,2)."
        )
    interval = "Welch's 95% interval: " + " to ".join(map(number, lead.interval))
    if lead.significant:
        return f"{summary}: more than the spread over seeds explains ({interval})."
    return f"{summary}: within the spread over seeds, so the order may be chance ({interval})."


def number(value: float | None) -> str:
    """Format a number to four significant digits, None and NaN as a dash."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.4g}"

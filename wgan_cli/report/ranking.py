"""Rank settings by their means over seeds, and test whether the best one leads by chance."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

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
# Numbers between these can be squared and added up.
_SMALLEST, _LARGEST = 1e-100, 1e100


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ only in their seed, with their results for the tag used for ranking.

    `values` are the group's settings that vary between groups; `label` shows them as overrides.
    `counted` has, for each seed, the newest finished run that has the tag, and `numbers` has the
    results of these runs. `floor` is the mean value of the metric for real data.
    """

    label: str
    values: tuple[Hashable, ...]
    runs: tuple[Run, ...]
    counted: tuple[Run, ...]
    numbers: tuple[float, ...]
    floor: float | None

    @property
    def n(self) -> int:
        """The number of seeds that are included in the mean."""
        return len(self.numbers)

    @property
    def mean(self) -> float | None:
        """The mean over seeds, or None without a counted run."""
        return _mean(self.numbers) if self.numbers else None

    @property
    def sd(self) -> float | None:
        """The sample standard deviation over seeds (n − 1), or None for fewer than two seeds."""
        if self.n < 2:
            return None
        scale = _scale(self.numbers)
        return statistics.stdev(_over(self.numbers, scale)) * scale


@dataclass(frozen=True)
class Margin:
    """The `amount` by which one group's mean beats another's; `interval` is Welch's (low, high)."""

    amount: float
    interval: tuple[float, float] | None

    @property
    def significant(self) -> bool:
        """True if the margin exceeds the spread over seeds: `interval` exists and excludes 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def higher_is_better(tag: str) -> bool | None:
    """Return whether a higher value of the tag is better, or None if that is unknown.

    The tag may end with a sample count, as in `metrics/fid_classifier_10k`.
    """
    tag = tag.removesuffix(RAW).removesuffix(FLOOR)
    if tag in CURVES:
        return CURVES[tag]
    if tag not in METRICS:
        tag = re.sub(r"_\d+k?$", "", tag)
    return METRICS[tag].higher_is_better if tag in METRICS else None


def floor_tag(tag: str) -> str:
    """Return the tag that holds this metric's value for real data."""
    return tag.removesuffix(RAW) + FLOOR


def is_metric(tag: str) -> bool:
    """Return whether the tag measures the model, and not real data, a sample count or a speed."""
    return not tag.endswith((FLOOR, "_n")) and not tag.startswith("throughput/")


def rank_tag(runs: Sequence[Run], by: str | None) -> str | None:
    """Return the tag for ranking: `by` if given, else `wasserstein/exact`, else another metric.

    Without `by`, the tag is one that a run has, and metrics that all finished runs have are
    preferred. Returns None if no run has a metric. Raises `ConfigError` if no run has the tag `by`.
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
    """Group the runs by settings; return the groups, the one with the best mean first.

    Groups without a mean come next, and groups whose runs all failed come last. If it is unknown
    whether higher or lower values are better, groups with a mean stay in the order of their runs.
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
        floor=_mean(floors) if floors else None,
    )


def margin(better: SeedGroup, other: SeedGroup, tag: str) -> Margin | None:
    """Return the margin by which the mean of `better` beats the mean of `other`.

    Returns None if a group has no mean, or if it is unknown whether higher or lower values are
    better. The margin has Welch's interval if both groups have at least two seeds.

    Welch (1947): with vᵢ = sᵢ²/nᵢ, the interval is the difference of the means ± t·√(v₁ + v₂). Here
    t is the quantile of Student's distribution with (v₁ + v₂)² / (v₁²/(n₁ − 1) + v₂²/(n₂ − 1))
    degrees of freedom.
    """
    higher = higher_is_better(tag)
    if better.mean is None or other.mean is None or higher is None:
        return None
    amount = better.mean - other.mean if higher else other.mean - better.mean
    if better.n < 2 or other.n < 2:
        return Margin(amount, None)
    scale = _scale([*better.numbers, *other.numbers])
    v1, v2 = (
        statistics.variance(_over(group.numbers, scale)) / group.n for group in (better, other)
    )
    if v1 + v2 == 0:
        return Margin(amount, (amount, amount))
    # Imported only for settings with several seeds, because it takes a fifth of a second.
    from scipy.special import stdtrit

    # The shares of the variance do not underflow, as the squares of small variances do.
    share1, share2 = v1 / (v1 + v2), v2 / (v1 + v2)
    freedom = 1 / (share1**2 / (better.n - 1) + share2**2 / (other.n - 1))
    half_width = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(v1 + v2) * scale
    return Margin(amount, (amount - half_width, amount + half_width))


def _mean(numbers: Sequence[float]) -> float:
    scale = _scale(numbers)
    return statistics.fmean(_over(numbers, scale)) * scale


def _scale(numbers: Sequence[float]) -> float:
    """Return a power of two by which to divide the numbers, so that no sum or square overflows.

    It is 1 unless the numbers are extreme, as those of a run that explodes.
    """
    largest = max(map(abs, numbers))
    if largest == 0 or _SMALLEST < largest < _LARGEST:
        return 1.0
    # A scale of less than 2^-1022 would itself be inexact.
    return 2.0 ** max(math.frexp(largest)[1] - 1, -1022)


def _over(numbers: Sequence[float], scale: float) -> list[float]:
    return [value / scale for value in numbers]


def conclusion(groups: Sequence[SeedGroup], tag: str | None) -> str:
    """Return a sentence that says whether the best group leads by more than the seeds' spread."""
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
    """Return the number with four significant digits, or a dash for None, NaN and infinity."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.4g}"

"""Settings in the order of what came of them, and whether the best is more than luck."""

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
from wgan_cli.report.varied import Varied
from wgan_cli.schema import CURVES, METRICS
from wgan_cli.validation import nearest

EXACT = "wasserstein/exact"
ESTIMATE = "critic/wasserstein"
FLOOR, RAW = "_real_real", "_raw"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Setting:
    """Runs that differ in seed alone, and their numbers.

    `numbers` are of `counted`: finished runs that have the number, one a seed. `sd` is the sample
    standard deviation (n − 1), None for fewer than two; `floor` the mean of what real data score.
    """

    words: str
    values: tuple[Hashable, ...]
    runs: tuple[Run, ...]
    counted: tuple[Run, ...]
    numbers: tuple[float, ...]
    floor: float | None

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.numbers)

    @property
    def mean(self) -> float | None:
        """Over seeds."""
        return statistics.fmean(self.numbers) if self.numbers else None

    @property
    def sd(self) -> float | None:
        """Over seeds."""
        return statistics.stdev(self.numbers) if self.n > 1 else None


@dataclass(frozen=True)
class Lead:
    """How much better one setting's mean is than another's, with Welch's interval (low, high)."""

    amount: float
    interval: tuple[float, float] | None

    @property
    def clear(self) -> bool:
        """Whether it exceeds the seeds' spread: 0 is not in the interval."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def higher_is_better(tag: str) -> bool | None:
    """Return whether more of it is better; None where its traits do not state that.

    The tag may end with a sample count, as in `metrics/fid_classifier_10k`.
    """
    tag = tag.removesuffix(RAW).removesuffix(FLOOR)
    if tag in CURVES:
        return CURVES[tag]
    if tag not in METRICS:
        tag = re.sub(r"_\d+k?$", "", tag)
    return METRICS[tag].higher_is_better if tag in METRICS else None


def floor_tag(tag: str) -> str:
    """The tag of what real data score on this metric."""
    return tag.removesuffix(RAW) + FLOOR


def is_metric(tag: str) -> bool:
    """Whether it measures what was trained: no floor, sample count or speed."""
    return not tag.endswith((FLOOR, "_n")) and not tag.startswith("throughput/")


def rank_tag(runs: Sequence[Run], by: str | None) -> str | None:
    """The tag that ranks: `by`, else `wasserstein/exact`, else the first of all finished runs.

    None where no run has a number. Raises `ConfigError` for a tag that no run has.
    """
    tags = list(dict.fromkeys(tag for run in runs for tag in run.final))
    if by is not None:
        if by not in tags:
            there = ", ".join(filter(is_metric, tags)) or "none"
            raise ConfigError(f"--by {by}: no run has it.{nearest(by, tags)} There are: {there}.")
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


def settings_by_rank(runs: Sequence[Run], varied: Varied, tag: str | None) -> list[Setting]:
    """Settings, the best mean first, then those without one, the lost last.

    Of a tag whose direction is unknown, settings with a mean stay in the order of their runs.
    """
    groups: dict[tuple[Hashable, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(varied.values(run), []).append(run)
    settings = [_setting(varied, values, group, tag) for values, group in groups.items()]
    sign = {True: -1, False: 1, None: 0}[higher_is_better(tag or "")]

    def place(setting: Setting) -> tuple[bool, float, bool]:
        mean = setting.mean
        return mean is None, sign * (mean or 0), all(run.lost for run in setting.runs)

    return sorted(settings, key=place)


def _setting(
    varied: Varied, values: tuple[Hashable, ...], runs: Sequence[Run], tag: str | None
) -> Setting:
    newest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: run.ended):
        if run.finished and tag in run.final:
            newest[str(run.seed)] = run
    counted = [run for run in runs if newest.get(str(run.seed)) is run]
    measured = counted or [run for run in runs if not run.lost]
    floors = [
        run.final[floor_tag(tag or "")] for run in measured if floor_tag(tag or "") in run.final
    ]
    return Setting(
        words=varied.words(values) or ("(as most)" if varied.usual else "(all alike)"),
        values=values,
        runs=tuple(runs),
        counted=tuple(counted),
        numbers=tuple(run.final[tag or ""] for run in counted),
        floor=statistics.fmean(floors) if floors else None,
    )


def lead(better: Setting, other: Setting, tag: str) -> Lead | None:
    """Of one setting's mean on another's, with Welch's interval where both have two seeds or more.

    None where one has no mean, or which direction is better is unknown.

    Welch (1947): with vᵢ = sᵢ²/nᵢ, the difference of the means ± t·√(v₁ + v₂), t the quantile of
    Student's distribution with (v₁ + v₂)² / (v₁²/(n₁ − 1) + v₂²/(n₂ − 1)) degrees of freedom.
    """
    higher = higher_is_better(tag)
    if better.mean is None or other.mean is None or higher is None:
        return None
    amount = better.mean - other.mean if higher else other.mean - better.mean
    if better.n < 2 or other.n < 2:
        return Lead(amount, None)
    one, two = (statistics.variance(setting.numbers) / setting.n for setting in (better, other))
    if one + two == 0:
        return Lead(amount, (amount, amount))
    freedom = (one + two) ** 2 / (one**2 / (better.n - 1) + two**2 / (other.n - 1))
    reach = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * math.sqrt(one + two)
    return Lead(amount, (amount - reach, amount + reach))


def verdict(settings: Sequence[Setting], tag: str | None) -> str:
    """Whether the best setting's lead on the next exceeds the seeds' spread, in a sentence."""
    ranked = [setting for setting in settings if setting.mean is not None]
    if tag is None or not ranked:
        return "No run has finished with a number to rank by."
    if len(settings) == 1:
        return f"All have the same settings, seed aside: {spread(settings[0])}."
    if len(ranked) == 1:
        return f"Only {ranked[0].words} has finished: there is nothing to compare it with."
    if higher_is_better(tag) is None:
        return (
            f"Not ranked: whether more or less of {tag} is better is unknown, so settings are in"
            " the order of their runs. Rank by another tag with --by, or, for a metric of your own,"
            " state higher_is_better in wgan_cli/schema/metrics.py."
        )
    best, second = ranked[:2]
    found = lead(best, second, tag)
    assert found is not None
    side = "higher" if higher_is_better(tag) else "lower"
    said = f"Best: {best.words}, {number(found.amount)} {side} than the next, {second.words}"
    if found.amount == 0:
        return f"The best, {best.words} and {second.words}, score the same."
    if found.interval is None:
        few = best if best.n < 2 else second
        return (
            f"{said}. Whether that is more than chance cannot be said, as {few.words} has one seed:"
            " add some (seed=0,1,2)."
        )
    span = "Welch's 95% interval of the lead: " + " to ".join(map(number, found.interval))
    if found.clear:
        return f"{said}: more than the seeds' spread explains ({span})."
    return f"{said}: within the seeds' spread, so their order may be chance ({span})."


def spread(setting: Setting) -> str:
    """Mean ± sd and n."""
    deviation = f" ± {number(setting.sd)}" if setting.sd is not None else ""
    return f"{number(setting.mean)}{deviation}, n = {setting.n}"


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.4g}"

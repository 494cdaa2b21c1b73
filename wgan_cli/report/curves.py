"""Prepare chart data: learning curves averaged over seeds, and heat maps over two settings."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from wgan_cli.report.ranking import ESTIMATE, RAW, SeedGroup, floor_tag, is_metric
from wgan_cli.report.runs import Run
from wgan_cli.report.settings import ABSENT, overrides_text

# If there are at most COLOURS groups, each group has a colour that readers can tell apart.
# Otherwise the best HIGHLIGHTED groups have a colour, and all other groups are grey.
COLOURS, HIGHLIGHTED = 8, 6
# The largest number of points in one curve, and in all grey curves of one chart together.
_POINTS, _GREY_POINTS = 300, 6000
# Draw heat maps only if results fill at least this share of their cells.
_MIN_FILLED = 0.25
_MAX_MAPS = 6

# A page has at most this many panels: a run from elsewhere may have any number of tags.
MOST_PANELS = 60
# Charts show values beyond these as these, and smaller ones as 0: axes cannot have their ranges.
_LARGEST, _SMALLEST = 1e100, 1e-100

Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Line:
    """One line of a chart: a group's mean over seeds, with the minimum and maximum as a band.

    All arrays have shape (n,). `rank` is the group's rank, from 0. Each run that diverged or failed
    has a separate line with `failed` set. `low` and `high` are None for a single run.
    """

    rank: int
    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    failed: bool = False


@dataclass(frozen=True)
class Panel:
    """The lines of one tag, all values `drawable`. `floors` are the metric's for real data."""

    tag: str
    lines: tuple[Line, ...]
    floors: tuple[float, ...]


@dataclass(frozen=True)
class HeatMap:
    """A grid of means over seeds: `xs` and `ys` are the values of the two settings in `keys`.

    `cells` holds the means, shape (len(ys), len(xs)), NaN for an empty cell. `failed` marks cells
    in which all runs diverged or failed. `fixed` shows the other varying settings as overrides.
    """

    fixed: str
    keys: tuple[str, str]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    cells: np.ndarray
    failed: np.ndarray


def coloured_count(groups: int) -> int:
    """Return the number of groups drawn in colour. These are the best groups."""
    return groups if groups <= COLOURS else HIGHLIGHTED


def drawable(values: ArrayLike) -> np.ndarray:
    """Return an array of float64 in which no value is too large or too small to be drawn."""
    array = np.clip(np.asarray(values, float), -_LARGEST, _LARGEST)
    return np.where(np.abs(array) < _SMALLEST, 0.0, array)


def panels(groups: Sequence[SeedGroup], ranking_tag: str | None) -> tuple[list[Panel], str]:
    """Return a panel for each metric, and a note that says if some are left out.

    The ranking tag comes first, then the critic's estimate.
    """
    tags = {
        tag
        for group in groups
        for run in group.runs
        for tag in run.curves
        if tag == ranking_tag or (is_metric(tag) and not tag.endswith(RAW))
    }

    def order(tag: str) -> tuple[int, int, str]:
        prefix = tag.partition("/")[0]
        prefixes = ("wasserstein", "metrics", "critic", "generator", prefix)
        return (ranking_tag, ESTIMATE, tag).index(tag), prefixes.index(prefix), tag

    drawn = (_panel(groups, tag) for tag in sorted(tags, key=order))
    shown = list(itertools.islice((panel for panel in drawn if panel.lines), MOST_PANELS))
    left_out = len(tags) > MOST_PANELS
    return shown, f"The first {MOST_PANELS} of {len(tags)} tags." if left_out else ""


def heat_maps(groups: Sequence[SeedGroup], keys: Sequence[str]) -> tuple[list[HeatMap], str]:
    """Return the heat maps, and a note that says why there are none or that some are left out.

    `keys` are the varying settings. If exactly two of them are numeric, there is one heat map for
    each combination of the other settings' values.
    """
    columns = list(zip(*(group.values for group in groups), strict=True))
    numeric = [i for i, values in enumerate(columns) if _is_numeric(values)]
    if len(numeric) < 2:
        return [], ""
    if len(numeric) > 2:
        names = ", ".join(keys[i] for i in numeric)
        return [], f"No heat map: {len(numeric)} numeric settings vary ({names}), not two."
    x, y = sorted(numeric, key=lambda i: -len(set(columns[i])))
    others = [i for i in range(len(keys)) if i not in (x, y)]
    by_others: dict[tuple[Hashable, ...], list[SeedGroup]] = {}
    for group in groups:
        if ABSENT not in (group.values[x], group.values[y]):
            by_others.setdefault(tuple(group.values[i] for i in others), []).append(group)
    maps = []
    for values, members in by_others.items():
        fixed = overrides_text({keys[i]: value for i, value in zip(others, values, strict=True)})
        maps.append(_heat_map(fixed, (x, y), keys, members))
    maps = [heat_map for heat_map in maps if heat_map.cells.size > 1]
    if not _filled_enough(maps):
        return [], f"No heat map: runs fill too little of the grid of {keys[x]} and {keys[y]}."
    note = f"The first {_MAX_MAPS} of {len(maps)} heat maps." if len(maps) > _MAX_MAPS else ""
    return maps[:_MAX_MAPS], note


def merged(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return steps, mean, minimum and maximum over curves, each of shape (n,).

    The steps are the union of all curves' steps. Missing values within a curve are interpolated
    linearly. A curve does not count at steps before its first or after its last step.
    """
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    table = np.stack([np.interp(grid, *curve, left=np.nan, right=np.nan) for curve in curves])
    return grid, np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0)


def thinned(count: int, most: int) -> np.ndarray:
    """Return at most `most` evenly spaced indices below `count`, including the first and last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _panel(groups: Sequence[SeedGroup], tag: str) -> Panel:
    coloured = coloured_count(len(groups))
    grey_points = max(2, min(_POINTS, _GREY_POINTS // max(1, len(groups) - coloured)))
    lines = []
    for rank, group in enumerate(groups):
        most = _POINTS if rank < coloured else grey_points
        curves = [
            (run.curves[tag][0], drawable(run.curves[tag][1]))
            for run in _averaged_runs(group)
            if tag in run.curves
        ]
        if curves:
            steps, mean, low, high = merged(curves)
            kept = thinned(len(steps), most)
            band = (low[kept], high[kept]) if len(curves) > 1 else (None, None)
            lines.append(Line(rank, steps[kept], mean[kept], *band))
        for run in group.runs:
            if run.failed and tag in run.curves:
                steps, values = run.curves[tag]
                kept = thinned(len(steps), most)
                lines.append(Line(rank, steps[kept], drawable(values[kept]), failed=True))
    runs = (run for group in groups for run in group.runs)
    floors = {run.final[floor_tag(tag)] for run in runs if floor_tag(tag) in run.final}
    return Panel(tag, tuple(lines), tuple(drawable(sorted(floors)).tolist()))


def _averaged_runs(group: SeedGroup) -> list[Run]:
    """Return the counted runs and the unfinished runs of other seeds, else all finished runs."""
    seeds = {str(run.seed) for run in group.counted}
    live = [run for run in group.runs if not run.failed and not run.finished]
    live = [run for run in live if str(run.seed) not in seeds]
    return [*group.counted, *live] or [run for run in group.runs if run.finished]


def _heat_map(
    fixed: str, axes: tuple[int, int], keys: Sequence[str], groups: Sequence[SeedGroup]
) -> HeatMap:
    x, y = axes
    xs = sorted({group.values[x] for group in groups})  # type: ignore[type-var]
    ys = sorted({group.values[y] for group in groups})  # type: ignore[type-var]
    cells = np.full((len(ys), len(xs)), np.nan)
    failed = np.zeros(cells.shape, bool)
    for group in groups:
        cell = ys.index(group.values[y]), xs.index(group.values[x])
        cells[cell] = np.nan if group.mean is None else group.mean
        failed[cell] = all(run.failed for run in group.runs)
    return HeatMap(fixed, (keys[x], keys[y]), tuple(xs), tuple(ys), cells, failed)  # type: ignore[arg-type]


def _is_numeric(values: Sequence[Hashable]) -> bool:
    """Return whether all values but `ABSENT` are finite numbers and at least two of them differ."""
    known = {value for value in values if value != ABSENT}
    return len(known) > 1 and all(
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -sys.float_info.max <= value <= sys.float_info.max
        for value in known
    )


def _filled_enough(maps: Sequence[HeatMap]) -> bool:
    """Return whether enough cells have results to compare settings within rows or columns.

    In a random search the result is False: hardly any two trials share a row or a column.
    """
    filled = sum(int((np.isfinite(one.cells) | one.failed).sum()) for one in maps)
    size = sum(one.cells.size for one in maps)
    # This many results can lie in the maps without two in one row, or without two in one column.
    unshared = sum(max(one.cells.shape) for one in maps)
    return filled == size or (filled > unshared and filled >= _MIN_FILLED * size)

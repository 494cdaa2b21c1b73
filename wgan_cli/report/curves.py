"""The numbers behind the charts: curves over seeds, and grids of two settings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wgan_cli.report.ranking import ESTIMATE, RAW, Setting, floor_tag, is_metric
from wgan_cli.report.runs import Run
from wgan_cli.report.settings import ABSENT, in_words

if TYPE_CHECKING:
    from wgan_cli.report.report import Report

# As many colours as can be told apart; of more settings the best few have one, the rest are grey.
COLOURS, HIGHLIGHTED = 8, 6
# A curve's points on the page, and those of all grey curves of a chart together.
_POINTS, _GREY_POINTS = 300, 6000
# Two settings' values whose results fill less of their grid than this are no grid.
_FILLED = 0.25
_MAPS = 6

Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Line:
    """A setting's course: the mean over seeds and what lies between the least and the greatest.

    All arrays (n,). `rank` is the setting's place, from 0; `lost` a run that diverged or failed,
    alone. `low` and `high` are None for one seed.
    """

    rank: int
    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    lost: bool = False


@dataclass(frozen=True)
class Panel:
    """The lines of one tag, and what real data score on it."""

    tag: str
    lines: tuple[Line, ...]
    floors: tuple[float, ...]


@dataclass(frozen=True)
class HeatMap:
    """Means over seeds at two settings' values: `cells` (len(ys), len(xs)), NaN where none is.

    `lost` marks cells in which every run diverged or failed; `words` says what else is fixed.
    """

    words: str
    keys: tuple[str, str]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    cells: np.ndarray
    lost: np.ndarray


def highlighted(settings: int) -> int:
    """How many settings, the best, have a colour of their own."""
    return settings if settings <= COLOURS else HIGHLIGHTED


def panels(report: Report) -> list[Panel]:
    """A panel a metric: what ranks and the critic's estimate first."""
    tags = {
        tag
        for run in report.runs
        for tag in run.curves
        if tag == report.by or (is_metric(tag) and not tag.endswith(RAW))
    }
    first = (report.by, ESTIMATE)
    groups = ("wasserstein", "metrics", "critic", "generator")

    def turn(tag: str) -> tuple[int, int, str]:
        group = tag.partition("/")[0]
        place = groups.index(group) if group in groups else len(groups)
        return (first.index(tag) if tag in first else len(first)), place, tag

    drawn = [_panel(report, tag) for tag in sorted(tags, key=turn)]
    return [panel for panel in drawn if panel.lines]


def heat_maps(report: Report) -> tuple[list[HeatMap], str]:
    """One for each choice of the other settings where two have numbers; else why there is none."""
    keys = report.varied.keys
    columns = list(zip(*(setting.values for setting in report.settings), strict=True))
    numeric = [key for key, values in zip(keys, columns, strict=True) if _numbers(values)]
    if len(numeric) < 2:
        return [], ""
    if len(numeric) > 2:
        return [], f"No heat map: {len(numeric)} settings have numbers ({', '.join(numeric)})."
    x, y = sorted((keys.index(key) for key in numeric), key=lambda place: -len(set(columns[place])))
    rest = [place for place in range(len(keys)) if place not in (x, y)]
    groups: dict[tuple[Hashable, ...], list[Setting]] = {}
    for setting in report.settings:
        others = tuple(setting.values[place] for place in rest)
        if ABSENT not in (setting.values[x], setting.values[y]):
            groups.setdefault(others, []).append(setting)
    maps = [
        _heat_map(in_words([keys[place] for place in rest], others), (x, y), keys, group)
        for others, group in groups.items()
    ]
    maps = [one for one in maps if one.cells.size > 1]
    if not _filled(maps):
        return [], f"No heat map: runs fill too little of a grid of {keys[x]} and {keys[y]}."
    note = f"The first {_MAPS} of {len(maps)} heat maps." if len(maps) > _MAPS else ""
    return maps[:_MAPS], note


def merged(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean, least and greatest over curves, (n,) each.

    At every step at which one of them has a value; the others' lie on the line between their
    neighbours, and a curve that has ended counts no more.
    """
    if len(curves) == 1:
        steps, values = curves[0]
        return steps, values, values, values
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    table = np.stack([np.interp(grid, *curve, left=np.nan, right=np.nan) for curve in curves])
    return grid, np.nanmean(table, 0), np.nanmin(table, 0), np.nanmax(table, 0)


def thinned(count: int, most: int) -> np.ndarray:
    """The places of at most `most` of `count` points, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _panel(report: Report, tag: str) -> Panel:
    best = highlighted(len(report.settings))
    grey = max(2, min(_POINTS, _GREY_POINTS // max(1, len(report.settings) - best)))
    lines = []
    for rank, setting in enumerate(report.settings):
        most = _POINTS if rank < best else grey
        sound = [run.curves[tag] for run in _drawn(setting) if tag in run.curves]
        if sound:
            steps, mean, low, high = merged(sound)
            kept = thinned(len(steps), most)
            band = (low[kept], high[kept]) if len(sound) > 1 else (None, None)
            lines.append(Line(rank, steps[kept], mean[kept], *band))
        for run in setting.runs:
            if run.lost and tag in run.curves:
                steps, values = run.curves[tag]
                kept = thinned(len(steps), most)
                lines.append(Line(rank, steps[kept], values[kept], lost=True))
    floors = {run.final[floor_tag(tag)] for run in report.runs if floor_tag(tag) in run.final}
    return Panel(tag, tuple(lines), tuple(sorted(floors)))


def _drawn(setting: Setting) -> list[Run]:
    """One run a seed: those that count, else those under way."""
    under_way = [run for run in setting.runs if not run.lost and not run.finished]
    seeds = {str(run.seed) for run in setting.counted}
    return [*setting.counted, *(run for run in under_way if str(run.seed) not in seeds)] or [
        run for run in setting.runs if run.finished
    ]


def _heat_map(
    words: str, places: tuple[int, int], keys: Sequence[str], settings: Sequence[Setting]
) -> HeatMap:
    x, y = places
    xs = sorted({setting.values[x] for setting in settings})  # type: ignore[type-var]
    ys = sorted({setting.values[y] for setting in settings})  # type: ignore[type-var]
    cells = np.full((len(ys), len(xs)), np.nan)
    lost = np.zeros(cells.shape, bool)
    for setting in settings:
        at = ys.index(setting.values[y]), xs.index(setting.values[x])
        cells[at] = np.nan if setting.mean is None else setting.mean
        lost[at] = all(run.lost for run in setting.runs)
    return HeatMap(words, (keys[x], keys[y]), tuple(xs), tuple(ys), cells, lost)  # type: ignore[arg-type]


def _numbers(values: Sequence[Hashable]) -> bool:
    """Whether all that runs have of it are numbers, and not all the same."""
    known = {value for value in values if value != ABSENT}
    return len(known) > 1 and all(type(value) in (int, float) for value in known)


def _filled(maps: Sequence[HeatMap]) -> bool:
    """Whether most rows or columns have something to compare, unlike those of random points."""
    filled = sum(int((np.isfinite(one.cells) | one.lost).sum()) for one in maps)
    size = sum(one.cells.size for one in maps)
    alone = sum(max(one.cells.shape) for one in maps)
    return filled == size or (filled > alone and filled >= _FILLED * size)

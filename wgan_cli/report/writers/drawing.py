"""Draw each chart as SVG in the page's colours, and all charts as one PNG for slides."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from functools import partial

import numpy as np

from wgan_cli.plain_matplotlib import Axes, Figure
from wgan_cli.report.comparison import Comparison
from wgan_cli.report.curves import HeatMap, Line, Panel, coloured_count, drawable
from wgan_cli.report.ranking import higher_is_better, number
from wgan_cli.report.writers.svg import (
    FAILED,
    PRINT,
    Ink,
    chart_style,
    set_title,
    shortened,
    svg_chart,
)

_MAX_TICKS = 12
# The smallest width of a heat map's cell that fits a number, in points.
_MIN_CELL = 16
# Width of one character of a tick label, in inches.
_CHARACTER = 0.065
# Height of the text above the PNG's charts, in inches.
_HEADER = 1.2
# Lines with at most this many points get a marker at each point.
_MAX_MARKED = 12


def chart(panel: Panel, groups: int) -> str:
    """Return the panel as SVG text; `groups` is the number of groups compared."""
    box = (0.15, 0.12, 0.83, 0.76)
    return svg_chart(panel.tag, (3.7, 2.4), box, partial(_draw_panel, panel, groups))


def heat_chart(one: HeatMap, tag: str) -> str:
    """Return a heat map of the ranking tag as SVG text."""
    label_width = 0.45 + _CHARACTER * max(map(len, _tick_labels(one.ys)))
    width = label_width + 0.35 + 0.62 * max(3, len(one.xs))
    height = 1.0 + 0.42 * max(2, len(one.ys))
    left, bottom = label_width / width, 0.5 / height
    box = (left, bottom, 1 - left - 0.1 / width, 1 - bottom - 0.35 / height)
    return svg_chart(f"heat {one.fixed}", (width, height), box, partial(_draw_heat_map, one, tag))


def picture(comparison: Comparison) -> bytes:
    """Return one PNG, as bytes, with all charts and a legend."""
    (panels, _), (maps, _) = comparison.panels, comparison.heat_maps
    charts = len(maps) + len(panels) + 1
    columns = min(4, charts)
    rows = math.ceil(charts / columns)
    width, height = 4.2 * columns, 2.9 * rows + _HEADER
    with chart_style(PRINT, ""):
        figure = Figure(figsize=(width, height))
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(0.6 / width, 0.5 / height, 0.99, 1 - _HEADER / height, 0.26, 0.45)
        lines = textwrap.wrap(f"{comparison.heading()} {comparison.conclusion}", 34 * columns + 6)
        x, y = 0.2 / width, 1 - 0.12 / height
        figure.text(x, y, "\n".join(lines[:4]), va="top", fontsize=11).set_parse_math(False)
        axes = iter(grid.flat)
        _draw_legend(next(axes), comparison)
        draw_panels = [partial(_draw_panel, panel, len(comparison.groups)) for panel in panels]
        draw_maps = [partial(_draw_heat_map, one, comparison.by or "") for one in maps]
        for draw in (*draw_panels[:1], *draw_maps, *draw_panels[1:]):
            place = next(axes)
            try:
                draw(place, PRINT)
            except Exception:
                _say_failed(place)
        for empty in axes:
            empty.axis("off")
        try:
            return _png(figure)
        except Exception:
            for place in figure.axes:
                _say_failed(place)
            return _png(figure)


def _say_failed(axes: Axes) -> None:
    """Replace the axes by a sentence; to clear them may fail as drawing did."""
    figure, place = axes.figure, axes.get_position()
    axes.remove()
    figure.text(place.x0, place.y0 + place.height / 2, FAILED)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _draw_panel(panel: Panel, groups: int, axes: Axes, ink: Ink) -> None:
    coloured_ranks = coloured_count(groups)
    for failed, style in ((True, "--"), (False, "-")):
        grey = [
            line for line in panel.lines if line.rank >= coloured_ranks and line.failed is failed
        ]
        if grey:
            axes.plot(*_joined(grey), style, color=ink.faint, linewidth=0.7, zorder=1)
    # Draw the best group last, on top of the others.
    coloured = [line for line in panel.lines if line.rank < coloured_ranks]
    for line in sorted(coloured, key=lambda line: (not line.failed, -line.rank)):
        colour = ink.series[line.rank]
        (drawn,) = axes.plot(line.steps, line.mean, color=colour, linewidth=1.4, zorder=3)
        if len(line.steps) <= _MAX_MARKED:
            drawn.set(marker="o", markersize=2.5)
        if line.failed:
            drawn.set_linestyle("--")
            axes.plot(line.steps[-1:], line.mean[-1:], "x", color=colour, markersize=5, zorder=3)
        if line.low is not None and line.high is not None:
            band = axes.fill_between(line.steps, line.low, line.high, color=colour, linewidth=0)
            band.set_alpha(0.18)
    for floor in panel.floors[:4]:
        axes.axhline(floor, color=ink.text, linestyle=":", linewidth=1, zorder=2)
    _set_limits(axes, panel, coloured_ranks)
    set_title(axes, panel.tag)


def _joined(lines: list[Line]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and means of all lines as one line with gaps, which needs less SVG text."""
    gap = np.array([np.nan])
    steps = [part for line in lines for part in (line.steps.astype(float), gap)]
    means = [part for line in lines for part in (line.mean, gap)]
    return np.concatenate(steps), np.concatenate(means)


def _set_limits(axes: Axes, panel: Panel, coloured_ranks: int) -> None:
    """Set the y range so that one exploding line does not flatten the other lines."""
    lines = [line for line in panel.lines if not line.failed] or list(panel.lines)
    coloured = [line for line in lines if line.rank < coloured_ranks] or lines
    parts = [part for line in coloured for part in (line.mean, line.low, line.high)]
    values = np.concatenate([part for part in parts if part is not None])
    lows = [float(line.mean.min()) for line in lines]
    highs = [float(line.mean.max()) for line in lines]
    least = min(values.min(), np.percentile(lows, 10), *panel.floors)
    most = max(values.max(), np.percentile(highs, 90), *panel.floors)
    low, high = np.percentile([*values, *panel.floors], (1, 99))
    # If higher is better (shares, scores), values rise from about 0: no log scale is needed.
    if min(values.min(), *lows) > 0 and high > 50 * low and not higher_is_better(panel.tag):
        axes.set_yscale("log")
        axes.set_ylim(max(least, low / 5) / 1.2, min(most, high * 5) * 1.2)
        return
    reach = (high - low) or abs(high) or 1.0
    least, most = max(least, low - 2 * reach), min(most, high + 2 * reach)
    margin = 0.06 * ((most - least) or abs(most) or 1.0)
    axes.set_ylim(least - margin, most + margin)


def _draw_heat_map(one: HeatMap, tag: str, axes: Axes, ink: Ink) -> None:
    cells = drawable(one.cells)
    quality = np.ma.masked_invalid(cells if higher_is_better(tag) else -cells)
    axes.pcolormesh(quality, cmap="Blues", edgecolors="none", linewidth=0)
    cell_width = 72 * axes.bbox.width / axes.figure.dpi / len(one.xs)
    least, most = (float(quality.min()), float(quality.max())) if quality.count() else (0.0, 0.0)
    for (y, x), value in np.ndenumerate(one.cells):
        if np.isnan(value):
            text, colour = ("×" if one.failed[y, x] else ""), ink.text
        else:
            dark = quality[y, x] - least > 0.6 * (most - least)
            text, colour = number(float(value)), "#ffffff" if dark else "#1b1b1b"
        if cell_width > _MIN_CELL:
            drawn = axes.text(x + 0.5, y + 0.5, text, color=colour, ha="center", va="center")
            best = not np.isnan(value) and quality[y, x] == most
            drawn.set(fontsize=min(8, cell_width / 4), fontweight="bold" if best else "normal")
    ticks = (axes.xaxis, one.xs, max(1, math.ceil(32 / cell_width))), (axes.yaxis, one.ys, 1)
    for axis, values, every in ticks:
        every = max(every, math.ceil(len(values) / _MAX_TICKS))
        kept = range(0, len(values), every)
        labels = _tick_labels(values)
        axis.set_ticks([i + 0.5 for i in kept], [labels[i] for i in kept])
    axes.set_xlabel(shortened(one.keys[0])).set_parse_math(False)
    axes.set_ylabel(shortened(one.keys[1])).set_parse_math(False)
    set_title(axes, f"{tag}  {one.fixed}".strip())


def _tick_labels(values: Sequence[float]) -> list[str]:
    """Return the values as text with four digits, or with six if two texts would be equal."""
    short = [number(value) for value in values]
    return short if len(set(short)) == len(values) else [f"{value:g}" for value in values]


def _draw_legend(axes: Axes, comparison: Comparison) -> None:
    axes.axis("off")
    groups = comparison.groups
    coloured = coloured_count(len(groups))
    labels = [group.label for group in groups[:coloured]]
    entries = list(zip(PRINT.series, labels, strict=False))
    if len(groups) > coloured:
        entries.append((PRINT.faint, f"{len(groups) - coloured} other settings"))
    for row, (colour, label) in enumerate(entries):
        height = 0.95 - 0.105 * row
        axes.plot([0, 0.06], [height, height], color=colour, linewidth=2.5)
        axes.text(0.09, height, shortened(label), va="center", fontsize=9).set_parse_math(False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)

"""Draw each chart as SVG in the page's colours, and all charts as one PNG for slides."""

from __future__ import annotations

import hashlib
import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wgan_cli.plain_matplotlib import Axes, Figure, rc_context
from wgan_cli.report.comparison import Comparison
from wgan_cli.report.curves import COLOURS, HeatMap, Line, Panel, coloured_count
from wgan_cli.report.ranking import higher_is_better, number

# Most colour-blind readers can distinguish these colours on white. The page's style sheet has
# other colours for dark mode.
_SERIES = "#1f6fb4 #d0322d #23875a #c77a0a #7b4fb5 #0b8796 #b8487f #75654a"
_MAX_LABEL = 60
_MAX_TICKS = 12
# The smallest width of a heat map's cell that fits a number, in points.
_MIN_CELL = 16
# Width of one character of a tick label, in inches.
_CHARACTER = 0.065
# Height of the text above the PNG's charts, in inches.
_HEADER = 1.2
# Lines with at most this many points get a marker at each point.
_MAX_MARKED = 12


@dataclass(frozen=True)
class Ink:
    """The colours of text, of faint lines, and of each group's line by rank."""

    text: str
    faint: str
    series: tuple[str, ...]


_PRINT = Ink("#222222", "#b9b9b9", tuple(_SERIES.split()))
# Placeholder colours that no chart uses otherwise. `_svg` replaces them by CSS variables.
_PAGE = Ink("#010203", "#010204", tuple(f"#01030{rank}" for rank in range(COLOURS)))
_VARIABLES = {
    _PAGE.text: "currentColor",
    _PAGE.faint: "var(--faint)",
    **{colour: f"var(--s{rank})" for rank, colour in enumerate(_PAGE.series)},
}


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


def svg_chart(
    name: str,
    size: tuple[float, float],
    box: tuple[float, float, float, float],
    draw: Callable[[Axes, Ink], None],
) -> str:
    """Call `draw` on new axes and return the SVG text. A hash of `name` makes the SVG's ids unique.

    `size` is (width, height) in inches. `box` is (left, bottom, width, height) of the axes, in
    shares of `size`.
    """
    with _style(_PAGE, name):
        figure = Figure(figsize=size)
        draw(figure.add_axes(box), _PAGE)
        return _svg(figure, name)


def picture(comparison: Comparison) -> bytes:
    """Return one PNG, as bytes, with all charts and a legend."""
    panels, (maps, _) = comparison.panels, comparison.heat_maps
    charts = len(maps) + len(panels) + 1
    columns = min(4, charts)
    rows = math.ceil(charts / columns)
    width, height = 4.2 * columns, 2.9 * rows + _HEADER
    with _style(_PRINT, ""):
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
            draw(next(axes), _PRINT)
        for empty in axes:
            empty.axis("off")
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
    axes.set_title(panel.tag, fontsize=9.5, loc="left").set_parse_math(False)


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
    quality = np.ma.masked_invalid(one.cells if higher_is_better(tag) else -one.cells)
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
    axes.set_xlabel(one.keys[0]).set_parse_math(False)
    axes.set_ylabel(one.keys[1]).set_parse_math(False)
    axes.set_title(f"{tag}  {one.fixed}".strip(), fontsize=9.5, loc="left").set_parse_math(False)


def _tick_labels(values: Sequence[float]) -> list[str]:
    """Return the values as text with four digits, or with six if two texts would be equal."""
    short = [number(value) for value in values]
    return short if len(set(short)) == len(values) else [f"{value:g}" for value in values]


def _draw_legend(axes: Axes, comparison: Comparison) -> None:
    axes.axis("off")
    groups = comparison.groups
    coloured = coloured_count(len(groups))
    labels = [group.label for group in groups[:coloured]]
    entries = list(zip(_PRINT.series, labels, strict=False))
    if len(groups) > coloured:
        entries.append((_PRINT.faint, f"{len(groups) - coloured} other settings"))
    for row, (colour, label) in enumerate(entries):
        height = 0.95 - 0.105 * row
        axes.plot([0, 0.06], [height, height], color=colour, linewidth=2.5)
        text = label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"
        axes.text(0.09, height, text, va="center", fontsize=9).set_parse_math(False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


@contextmanager
def _style(ink: Ink, salt: str) -> Iterator[None]:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.color": ink.text,
        "axes.labelcolor": ink.text,
        "axes.edgecolor": ink.faint,
        "xtick.color": ink.text,
        "ytick.color": ink.text,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.labelsize": 8.5,
    }
    with rc_context(settings), warnings.catch_warnings():
        # Ignore missing glyphs: they become boxes in the PNG, but the page shows them correctly.
        warnings.filterwarnings("ignore", "Glyph")
        yield


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as SVG text for a page: no header, unique ids, CSS variables as colours."""
    file = io.StringIO()
    width = 96 * figure.get_figwidth()
    metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    prefix = hashlib.sha256(name.encode()).hexdigest()[:8]
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(
        r' id="([^"]*)"',
        lambda match: f' id="{prefix}{match[1]}"' if match[1] in used else "",
        text,
    )
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    # Two decimals are precise enough; matplotlib's six would double the page's size.
    text = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\d\.\d\d)\d+", r"\1", match[0]), text)
    text = re.sub(r"font: (?:[\w ]+ )?([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return re.sub(r'width="[^"]*" height="[^"]*"', f'role="img" width="{width:.0f}"', text, count=1)

"""The charts: SVG that takes its colours from the page, and one PNG for slides."""

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
from typing import TYPE_CHECKING, Any

import numpy as np

from wgan_cli.report.curves import COLOURS, HeatMap, Line, Panel, highlighted
from wgan_cli.report.ranking import higher_is_better, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wgan_cli.report.report import Report

# On white, and beside each other for most colour-blind eyes. The page has its own for a dark one.
SERIES = (
    "#1f6fb4",
    "#d0322d",
    "#23875a",
    "#c77a0a",
    "#7b4fb5",
    "#0b8796",
    "#b8487f",
    "#75654a",
)
_LEGEND_WORDS = 60
_MOST_TICKS = 12
# Points; a number has no room in less.
_NARROWEST_CELL = 16
# Inches that a sign of a tick's label takes.
_SIGN = 0.065
# Inches above the charts of the picture, for what it shows and what to make of it.
_HEAD = 1.2
# So few points are marked each.
_FEW_POINTS = 12


@dataclass(frozen=True)
class _Ink:
    """Colours; on the page they stand for CSS variables."""

    text: str
    faint: str
    series: tuple[str, ...]


_PRINT = _Ink("#222222", "#b9b9b9", SERIES)
# No chart has these by chance; each is replaced by what the page says it is.
_PAGE = _Ink("#010203", "#010204", tuple(f"#01030{place}" for place in range(COLOURS)))
_VARIABLES = {
    _PAGE.text: "currentColor",
    _PAGE.faint: "var(--faint)",
    **{colour: f"var(--s{place})" for place, colour in enumerate(_PAGE.series)},
}


def chart(panel: Panel, settings: int) -> str:
    """A panel as an SVG element, of which no id is another chart's."""
    with _style(_PAGE, panel.tag):
        figure = _figure(3.7, 2.4)
        _draw_panel(figure.add_axes((0.15, 0.12, 0.83, 0.76)), panel, settings, _PAGE)
        return _svg(figure, panel.tag)


def heat_chart(one: HeatMap, tag: str) -> str:
    """A heat map as an SVG element."""
    across = 0.45 + _SIGN * max(map(len, _ticks(one.ys)))
    wide, high = across + 0.35 + 0.62 * max(3, len(one.xs)), 1.0 + 0.42 * max(2, len(one.ys))
    with _style(_PAGE, one.words):
        figure = _figure(wide, high)
        left, bottom = across / wide, 0.5 / high
        axes = figure.add_axes((left, bottom, 1 - left - 0.1 / wide, 1 - bottom - 0.35 / high))
        _draw_heat(axes, one, tag, _PAGE)
        return _svg(figure, f"heat {one.words}")


def page_chart(
    name: str, width: float, height: float, draw: Callable[[Axes, str, str], None]
) -> str:
    """An SVG element, `width` by `height` inches, of what `draw` puts on axes by two colours."""
    with _style(_PAGE, name):
        figure = _figure(width, height)
        draw(figure.add_axes((0.1, 0.14, 0.88, 0.74)), _PAGE.series[0], _PAGE.text)
        return _svg(figure, name)


def picture(report: Report) -> bytes:
    """All charts as one PNG, with what the colours mean."""
    maps, _ = report.heat_maps
    places = len(maps) + len(report.panels) + 1
    columns = min(4, places)
    rows = math.ceil(places / columns)
    wide, high = 4.2 * columns, 2.9 * rows + _HEAD
    with _style(_PRINT, ""):
        figure = _figure(wide, high)
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(0.6 / wide, 0.5 / high, 0.99, 1 - _HEAD / high, 0.26, 0.45)
        lines = textwrap.wrap(f"{report.heading()} {report.verdict}", 34 * columns + 6)
        head = figure.text(0.2 / wide, 1 - 0.12 / high, "\n".join(lines[:4]), va="top", fontsize=11)
        head.set_parse_math(False)
        axes = iter(grid.flat)
        _legend(next(axes), report)
        for panel in report.panels[:1]:
            _draw_panel(next(axes), panel, len(report.settings), _PRINT)
        for one in maps:
            _draw_heat(next(axes), one, report.by or "", _PRINT)
        for panel in report.panels[1:]:
            _draw_panel(next(axes), panel, len(report.settings), _PRINT)
        for empty in axes:
            empty.axis("off")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
        return file.getvalue()


def _draw_panel(axes: Axes, panel: Panel, settings: int, ink: _Ink) -> None:
    best = highlighted(settings)
    for lost, dashes in ((True, "--"), (False, "-")):
        grey = [line for line in panel.lines if line.rank >= best and line.lost is lost]
        if grey:
            axes.plot(*_joined(grey), dashes, color=ink.faint, linewidth=0.7, zorder=1)
    # The best is drawn last, over all others.
    coloured = [line for line in panel.lines if line.rank < best]
    for line in sorted(coloured, key=lambda line: (not line.lost, -line.rank)):
        colour = ink.series[line.rank]
        (drawn,) = axes.plot(line.steps, line.mean, color=colour, linewidth=1.4, zorder=3)
        if len(line.steps) <= _FEW_POINTS:
            drawn.set(marker="o", markersize=2.5)
        if line.lost:
            drawn.set_linestyle("--")
            axes.plot(line.steps[-1:], line.mean[-1:], "x", color=colour, markersize=5, zorder=3)
        if line.low is not None and line.high is not None:
            band = axes.fill_between(line.steps, line.low, line.high, color=colour, linewidth=0)
            band.set_alpha(0.18)
    for floor in panel.floors[:4]:
        axes.axhline(floor, color=ink.text, linestyle=":", linewidth=1, zorder=2)
    _limit(axes, panel, best)
    axes.set_title(panel.tag, fontsize=9.5, loc="left").set_parse_math(False)


def _joined(lines: list[Line]) -> tuple[np.ndarray, np.ndarray]:
    """Many lines as one, broken between them: a page with hundreds stays small."""
    gap = np.array([np.nan])
    steps = [part for line in lines for part in (line.steps.astype(float), gap)]
    means = [part for line in lines for part in (line.mean, gap)]
    return np.concatenate(steps), np.concatenate(means)


def _limit(axes: Axes, panel: Panel, best: int) -> None:
    """Room for the coloured lines and most grey ones: one that explodes must not flatten all."""
    sound = [line for line in panel.lines if not line.lost] or list(panel.lines)
    coloured = [line for line in sound if line.rank < best] or sound
    ends = [part for line in coloured for part in (line.mean, line.low, line.high)]
    values = np.concatenate([part for part in ends if part is not None])
    lows, highs = (
        [float(line.mean.min()) for line in sound],
        [float(line.mean.max()) for line in sound],
    )
    least = min(values.min(), np.percentile(lows, 10), *panel.floors)
    most = max(values.max(), np.percentile(highs, 90), *panel.floors)
    low, high = np.percentile([*values, *panel.floors], (1, 99))
    # Shares and scores, of which more is better, start from nothing.
    if min(values.min(), *lows) > 0 and high > 50 * low and not higher_is_better(panel.tag):
        axes.set_yscale("log")
        axes.set_ylim(max(least, low / 5) / 1.2, min(most, high * 5) * 1.2)
        return
    reach = (high - low) or abs(high) or 1.0
    least, most = max(least, low - 2 * reach), min(most, high + 2 * reach)
    margin = 0.06 * ((most - least) or abs(most) or 1.0)
    axes.set_ylim(least - margin, most + margin)


def _draw_heat(axes: Axes, one: HeatMap, tag: str, ink: _Ink) -> None:
    worth = np.ma.masked_invalid(one.cells if higher_is_better(tag) else -one.cells)
    axes.pcolormesh(worth, cmap="Blues", edgecolors="none", linewidth=0)
    cell = 72 * axes.bbox.width / axes.figure.dpi / len(one.xs)
    least, most = (float(worth.min()), float(worth.max())) if worth.count() else (0.0, 0.0)
    for (y, x), value in np.ndenumerate(one.cells):
        if np.isnan(value):
            text, colour = ("×" if one.lost[y, x] else ""), ink.text
        else:
            dark = worth[y, x] - least > 0.6 * (most - least)
            text, colour = number(float(value)), "#ffffff" if dark else "#1b1b1b"
        if cell > _NARROWEST_CELL:
            written = axes.text(x + 0.5, y + 0.5, text, color=colour, ha="center", va="center")
            best = not np.isnan(value) and worth[y, x] == most
            written.set(fontsize=min(8, cell / 4), fontweight="bold" if best else "normal")
    ticks = (axes.xaxis, one.xs, max(1, math.ceil(32 / cell))), (axes.yaxis, one.ys, 1)
    for axis, values, every in ticks:
        every = max(every, math.ceil(len(values) / _MOST_TICKS))
        kept = range(0, len(values), every)
        words = _ticks(values)
        axis.set_ticks([place + 0.5 for place in kept], [words[place] for place in kept])
    axes.set_xlabel(one.keys[0]).set_parse_math(False)
    axes.set_ylabel(one.keys[1]).set_parse_math(False)
    axes.set_title(f"{tag}  {one.words}".strip(), fontsize=9.5, loc="left").set_parse_math(False)


def _ticks(values: Sequence[float]) -> list[str]:
    """To four digits, where that tells them apart."""
    short = [number(value) for value in values]
    return short if len(set(short)) == len(values) else [f"{value:g}" for value in values]


def _legend(axes: Axes, report: Report) -> None:
    axes.axis("off")
    best = highlighted(len(report.settings))
    entries = [
        (_PRINT.series[rank], setting.words) for rank, setting in enumerate(report.settings[:best])
    ]
    if len(report.settings) > best:
        entries.append((_PRINT.faint, f"{len(report.settings) - best} other settings"))
    for place, (colour, words) in enumerate(entries):
        height = 0.95 - 0.105 * place
        axes.plot([0, 0.06], [height, height], color=colour, linewidth=2.5)
        text = words if len(words) <= _LEGEND_WORDS else words[: _LEGEND_WORDS - 1] + "…"
        axes.text(0.09, height, text, va="center", fontsize=9).set_parse_math(False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


@contextmanager
def _style(ink: _Ink, salt: str) -> Iterator[None]:
    from matplotlib import rc_context

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
        # A sign that matplotlib's font lacks is a box on the picture, and the page has its own.
        warnings.filterwarnings("ignore", "Glyph")
        yield


def _figure(width: float, height: float) -> Figure:
    """In inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _svg(figure: Figure, name: str) -> str:
    """The figure's SVG without what only a file of its own needs, in the page's colours."""
    file = io.StringIO()
    width = 96 * figure.get_figwidth()
    metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    own = hashlib.sha256(name.encode()).hexdigest()[:8]
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(
        r' id="([^"]*)"',
        lambda found: f' id="{own}{found[1]}"' if found[1] in used else "",
        text,
    )
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{own}", text)
    # A hundredth of a point is less than can be seen, and six digits more than half the page.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\d\.\d\d)\d+", r"\1", path[0]), text)
    text = re.sub(r"font: (?:[\w ]+ )?([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return re.sub(r'width="[^"]*" height="[^"]*"', f'role="img" width="{width:.0f}"', text, count=1)

"""Draw on axes in the page's colours, and give the figure as SVG text."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from wgan_cli.plain_matplotlib import Axes, Figure, rc_context
from wgan_cli.report.curves import COLOURS

# Most colour-blind readers can distinguish these colours on white. The page's style sheet has
# other colours for dark mode.
_SERIES = "#1f6fb4 #d0322d #23875a #c77a0a #7b4fb5 #0b8796 #b8487f #75654a"
# The longest title or label, in characters.
_MAX_LABEL = 60
FAILED = "This chart cannot be drawn"


@dataclass(frozen=True)
class Ink:
    """The colours of text, of faint lines, and of each group's line by rank."""

    text: str
    faint: str
    series: tuple[str, ...]


PRINT = Ink("#222222", "#b9b9b9", tuple(_SERIES.split()))
# Placeholder colours that no chart uses otherwise. `_svg` replaces them by CSS variables.
_PAGE = Ink("#010203", "#010204", tuple(f"#01030{rank}" for rank in range(COLOURS)))
_VARIABLES = {
    _PAGE.text: "currentColor",
    _PAGE.faint: "var(--faint)",
    **{colour: f"var(--s{rank})" for rank, colour in enumerate(_PAGE.series)},
}


def svg_chart(
    name: str,
    size: tuple[float, float],
    box: tuple[float, float, float, float],
    draw: Callable[[Axes, Ink], None],
) -> str:
    """Call `draw` on new axes and return the SVG text. A hash of `name` makes the SVG's ids unique.

    `size` is (width, height) in inches. `box` is (left, bottom, width, height) of the axes, in
    shares of `size`. If the chart cannot be drawn, a sentence in HTML says so.
    """
    with chart_style(_PAGE, name):
        try:
            figure = Figure(figsize=size)
            draw(figure.add_axes(box), _PAGE)
            return _svg(figure, name)
        # The page must not be lost with one chart: its numbers may come from anybody.
        except Exception:
            return f"<p>{FAILED}: {escape(shortened(name))}</p>"


def set_title(axes: Axes, text: str) -> None:
    """Set the title of a chart, shortened to fit."""
    axes.set_title(shortened(text), fontsize=9.5, loc="left").set_parse_math(False)


def shortened(text: str) -> str:
    """Return printable text of at most `_MAX_LABEL` characters."""
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"


@contextmanager
def chart_style(ink: Ink, salt: str) -> Iterator[None]:
    """Return a context with matplotlib's settings; `salt` makes an SVG's ids unique."""
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

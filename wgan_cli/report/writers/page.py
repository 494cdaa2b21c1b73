"""Write `report.html`: one page that needs no network and works without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from wgan_cli.plain_matplotlib import Axes
from wgan_cli.report.comparison import Comparison
from wgan_cli.report.curves import coloured_count, drawable
from wgan_cli.report.ranking import is_metric, margin, number
from wgan_cli.report.settings import overrides_text
from wgan_cli.report.varying_settings import MAX_COLUMNS
from wgan_cli.report.writers.drawing import chart, heat_chart
from wgan_cli.report.writers.svg import Ink, set_title, svg_chart
from wgan_cli.search.space import value_text
from wgan_cli.search.study import (
    FAILED,
    FINISHED,
    PRUNED,
    RUNNING,
    StudySummary,
    TrialSummary,
    trials_text,
)
from wgan_cli.untrusted_files import read_bytes

# Limits of a thumbnail's longer side, in pixels.
_MAX_SIDE, _MIN_SIDE = 300, 110
# The largest size of all pictures of a page together, in bytes.
_MAX_BYTES = 6_000_000
# A run's pictures have far fewer pixels. A picture with more may be a decompression bomb.
_MAX_PIXELS = 20_000_000
# The largest file of a picture that is read, in bytes.
_MOST_PICTURE = 2**26
# Space above and below the values in the chart of a search, as a share of their range.
_MARGIN = 0.08


def page(comparison: Comparison) -> str:
    """Return the page as HTML; all text from the runs' files is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "value_text": value_text}
    (panels, panel_note), (maps, note) = comparison.panels, comparison.heat_maps
    tags = dict.fromkeys(tag for run in comparison.runs for tag in run.final)
    varying, groups = comparison.varying, comparison.groups
    return environment.get_template("page.html.j2").render(
        report=comparison,
        coloured=coloured_count(len(groups)),
        margins=[None, *(margin(groups[0], other, comparison.by or "") for other in groups[1:])],
        tags=sorted(tags, key=lambda tag: (tag != comparison.by, not is_metric(tag))),
        columns=varying.keys if len(varying.keys) <= MAX_COLUMNS else None,
        common=overrides_text(varying.common),
        # `Markup` is safe here: matplotlib escapes all text in its SVG.
        heat_maps=[Markup(heat_chart(one, comparison.by or "")) for one in maps],
        heat_note=note,
        charts=[Markup(chart(panel, len(groups))) for panel in panels],
        chart_note=panel_note,
        samples=_samples(comparison),
        searches=list(map(_search_section, comparison.studies)),
    )


def _samples(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the newest picture of each group's best run as a data URI, with caption data."""
    best = [min(group.runs, key=comparison.runs.index) for group in comparison.groups]
    paths = [run.newest_samples for run in best]
    count = sum(path is not None for path in paths)
    samples = []
    for rank, (run, path) in enumerate(zip(best, paths, strict=True)):
        uri = _thumbnail(path, count) if path is not None else None
        if path is not None and uri is not None:
            step = path.stem.removeprefix("step_").lstrip("0") or "0"
            label = comparison.groups[rank].label
            samples.append(
                {"rank": rank, "label": label, "run": run.name, "step": step, "uri": uri}
            )
    return samples


def _thumbnail(path: Path, count: int) -> str | None:
    """Return the picture as a data URI, or None if it cannot be read.

    `count` is the number of pictures on the page; a larger `count` gives smaller pictures.
    """
    side = max(_MIN_SIDE, min(_MAX_SIDE, round(_MAX_SIDE * (24 / max(count, 1)) ** 0.5)))
    try:
        # Read the file first: opening a pipe or a device would wait or never end.
        content = io.BytesIO(read_bytes(path, _MOST_PICTURE))
        with Image.open(content, formats=["PNG"]) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                return None
            image = opened.convert("RGB")
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    # For damaged files, Pillow raises many kinds of exceptions.
    except Exception:
        return None
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 80})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() * count <= _MAX_BYTES:
            break
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _search_section(study: StudySummary) -> dict[str, Any]:
    """Return the data of a study for the template: its texts, varied settings and chart.

    The chart is SVG text. It shows the value of each trial by trial number, and the best value so
    far as a line. Filled circles are finished trials, hollow circles are pruned trials, and crosses
    at the bottom are failed trials. Triangles at the edge are values outside the chart's range.
    """
    running = (RUNNING,) if study.count(RUNNING) else ()
    states = (FINISHED, PRUNED, FAILED, *running)
    counts = ", ".join(f"{study.count(state)} {state}" for state in states)
    best, outcome = study.best, "None has finished."
    if best is not None:
        settings = overrides_text(best.params)
        outcome = f"The best is trial {best.number} with {number(best.value)}: {settings}."
    name = f"search {study.metric} {len(study.trials)}"
    box = (0.1, 0.14, 0.88, 0.74)
    return {
        "study": study,
        "varied": list(dict.fromkeys(key for trial in study.trials for key in trial.params)),
        "counts": f"{len(study.trials)} of {trials_text(study.total)}: {counts}.",
        "best": outcome,
        "chart": Markup(svg_chart(name, (6.4, 2.7), box, partial(_draw, study))),
    }


def _draw(study: StudySummary, axes: Axes, ink: Ink) -> None:
    low, high = _limits(study)
    triangle = "^" if study.direction == "minimize" else "v"
    for state, face in ((PRUNED, "none"), (FINISHED, ink.text)):
        trials = [
            trial for trial in study.trials if trial.state == state and trial.value is not None
        ]
        values = list(zip([trial.number for trial in trials], _values(trials), strict=True))
        inside = [(x, y) for x, y in values if low <= y <= high]
        outside = [(x, high if y > high else low) for x, y in values if not low <= y <= high]
        for drawn, marker in ((inside, "o"), (outside, triangle)):
            xs, ys = [x for x, _ in drawn], [y for _, y in drawn]
            axes.plot(xs, ys, marker, color=ink.text, markerfacecolor=face, markersize=4.5)
    failed = [trial.number for trial in study.trials if trial.state == FAILED]
    axes.plot(failed, [low] * len(failed), "x", color=ink.text, markersize=5)
    best = study.best_so_far
    axes.step(list(best), drawable(list(best.values())), where="post", color=ink.series[0])
    margin = _MARGIN * (high - low)
    axes.set_ylim(low - margin, high + margin)
    set_title(axes, f"{study.metric} by trial")


def _limits(study: StudySummary) -> tuple[float, float]:
    """Return the lowest and highest value to show. Outliers on the worse side are left out.

    The range covers finished trials, or all trials while none has finished.
    """
    known = [trial for trial in study.trials if trial.value is not None]
    values = _values([trial for trial in known if trial.state == FINISHED] or known)
    if not values:
        return 0.0, 1.0
    lower, upper = map(float, np.percentile(values, (25, 75)))
    reach = 3 * (upper - lower) or abs(values[0]) or 1.0
    low, high = min(values), max(values)
    # This keeps the range from being empty.
    least = 1e-9 * max(1.0, abs(low), abs(high))
    if study.direction == "minimize":
        return low, max(low + least, min(high, upper + reach))
    return min(high - least, max(low, lower - reach)), high


def _values(trials: Sequence[TrialSummary]) -> list[float]:
    """Return the values of trials that have one, as a chart can show them."""
    values: list[float] = drawable([trial.value or 0.0 for trial in trials]).tolist()
    return values

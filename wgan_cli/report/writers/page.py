"""Write `report.html`: one page that needs no network and works without scripts."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from wgan_cli.report.comparison import Comparison
from wgan_cli.report.curves import coloured_count
from wgan_cli.report.ranking import is_metric, margin, number
from wgan_cli.report.settings import overrides_text
from wgan_cli.report.varying_settings import MAX_COLUMNS
from wgan_cli.report.writers.drawing import chart, heat_chart
from wgan_cli.report.writers.search_section import SearchSection
from wgan_cli.search.space import value_text

# Limits of a thumbnail's longer side, in pixels.
_MAX_SIDE, _MIN_SIDE = 300, 110
# The largest size of all pictures of a page together, in bytes.
_MAX_BYTES = 6_000_000
# A run's pictures have far fewer pixels; a picture with more may be a decompression bomb.
_MAX_PIXELS = 20_000_000


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
    maps, note = comparison.heat_maps
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
        charts=[Markup(chart(panel, len(groups))) for panel in comparison.panels],
        samples=_samples(comparison),
        searches=[SearchSection(study) for study in comparison.studies],
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
        with Image.open(path, formats=["PNG"]) as opened:
            if not path.is_file() or opened.width * opened.height > _MAX_PIXELS:
                return None
            image = opened.convert("RGB")
    # For damaged files, Pillow raises many kinds of exceptions.
    except Exception:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 80})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() * count <= _MAX_BYTES:
            break
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"

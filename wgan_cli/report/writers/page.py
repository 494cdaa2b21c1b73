"""`report.html`: everything on one page, which needs no network and works without scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from wgan_cli.report.comparison import Comparison
from wgan_cli.report.curves import coloured_count
from wgan_cli.report.ranking import is_metric, margin, number
from wgan_cli.report.settings import overrides_text, value_text
from wgan_cli.report.varying_settings import MAX_COLUMNS
from wgan_cli.report.writers.drawing import chart, heat_chart
from wgan_cli.report.writers.search_section import SearchSection
from wgan_cli.report.writers.thumbnails import thumbnail

_TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Sample:
    """The newest picture of a setting's best run; `uri` is a data URI."""

    rank: int
    label: str
    run: str
    step: str
    uri: str


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
    varying, settings = comparison.varying, comparison.settings
    return environment.get_template(_TEMPLATE).render(
        report=comparison,
        coloured=coloured_count(len(settings)),
        margins=[None, *(margin(settings[0], s, comparison.by or "") for s in settings[1:])],
        tags=_tags(comparison),
        columns=varying.keys if len(varying.keys) <= MAX_COLUMNS else None,
        common=overrides_text(varying.common),
        # These need no escaping here: matplotlib escapes all text in its SVG.
        heat_maps=[Markup(heat_chart(one, comparison.by or "")) for one in maps],
        heat_note=note,
        charts=[Markup(chart(panel, len(settings))) for panel in comparison.panels],
        samples=_samples(comparison),
        searches=[SearchSection(study) for study in comparison.studies],
    )


def _tags(comparison: Comparison) -> list[str]:
    """Return the tags of all final numbers: the ranking tag first, then metrics, then others."""
    tags = dict.fromkeys(tag for run in comparison.runs for tag in run.final)
    return sorted(tags, key=lambda tag: (tag != comparison.by, not is_metric(tag)))


def _samples(comparison: Comparison) -> list[Sample]:
    pictures = []
    for rank, setting in enumerate(comparison.settings):
        best = min(setting.runs, key=comparison.runs.index)
        path = best.newest_samples
        if path is not None:
            pictures.append((rank, setting.label, best.name, path))
    samples = []
    for rank, label, run, path in pictures:
        uri = thumbnail(path, len(pictures))
        if uri is not None:
            step = path.stem.removeprefix("step_").lstrip("0") or "0"
            samples.append(Sample(rank, label, run, step, uri))
    return samples

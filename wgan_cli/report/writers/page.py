"""`report.html`: everything on one page that needs no network and no script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wgan_cli.report.curves import highlighted
from wgan_cli.report.ranking import Lead, Setting, is_metric, lead, number
from wgan_cli.report.runs import Run
from wgan_cli.report.settings import in_words, shown
from wgan_cli.report.varied import MANY
from wgan_cli.report.writers.drawing import chart, heat_chart
from wgan_cli.report.writers.search_section import section
from wgan_cli.report.writers.thumbnails import thumbnail

if TYPE_CHECKING:
    from wgan_cli.report.report import Report

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Sample:
    """A picture of a setting's best run."""

    rank: int
    words: str
    run: str
    step: str
    uri: str


def page(report: Report) -> str:
    """The page as HTML; all that comes from a run's files is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "shown": shown}
    tag = report.by or ""
    maps, note = report.heat_maps
    varied = report.varied
    return environment.get_template(TEMPLATE).render(
        report=report,
        coloured=highlighted(len(report.settings)),
        leads=[_lead(report, setting) for setting in report.settings],
        tags=_tags(report),
        columns=varied.keys if len(varied.keys) <= MANY else None,
        usual=in_words(list(varied.usual), list(varied.usual.values())),
        # matplotlib escapes what it writes.
        heat_maps=[Markup(heat_chart(one, tag)) for one in maps],
        heat_note=note,
        charts=[(panel, Markup(chart(panel, len(report.settings)))) for panel in report.panels],
        samples=_samples(report),
        searches=[section(facts) for facts in report.studies],
    )


def _lead(report: Report, setting: Setting) -> Lead | None:
    """Of the best setting on this one."""
    best = report.settings[0]
    return None if setting is best or report.by is None else lead(best, setting, report.by)


def _tags(report: Report) -> list[str]:
    """All final numbers' tags, what ranks first."""
    tags = dict.fromkeys(tag for run in report.runs for tag in run.final)
    return sorted(tags, key=lambda tag: (tag != report.by, not is_metric(tag)))


def _samples(report: Report) -> list[Sample]:
    chosen = [(place, _best(report, s)) for place, s in enumerate(report.settings)]
    pictures = [(place, run, run.newest_samples) for place, run in chosen]
    found = [(place, run, path) for place, run, path in pictures if path is not None]
    samples = []
    for place, run, path in found:
        uri = thumbnail(path, len(found))
        if uri is not None:
            step = path.stem.removeprefix("step_").lstrip("0") or "0"
            words = report.settings[place].words
            samples.append(Sample(place, words, run.name, step, uri))
    return samples


def _best(report: Report, setting: Setting) -> Run:
    """The setting's run that ranks first."""
    return min(setting.runs, key=report.runs.index)

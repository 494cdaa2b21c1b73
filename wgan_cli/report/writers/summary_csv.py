"""`summary.csv`: a row a run, every number as its own files have it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from wgan_cli.report.settings import shown

if TYPE_CHECKING:
    from wgan_cli.report.report import Report


def table(report: Report) -> str:
    """A header, then the runs by rank; `counted` is 1 where a run enters its setting's mean."""
    keys = report.varied.keys
    tags = sorted({tag for run in report.runs for tag in run.final})
    counted = {run.folder for setting in report.settings for run in setting.counted}
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    about = ["run", "state", *keys, "seed", "counted", "step", "steps", "seconds"]
    rows.writerow(_writable([*about, *tags, "message", "command"]))
    for run in report.runs:
        values = [shown(run.settings[key]) if key in run.settings else "" for key in keys]
        facts = [run.step, run.steps, run.seconds]
        numbers = [run.final.get(tag) for tag in tags]
        told = [run.name, run.state, *values, run.seed, int(run.folder in counted), *facts]
        found = ["" if value is None else repr(value) for value in numbers]
        rows.writerow(_writable([*told, *found, run.message, run.command]))
    return file.getvalue()


def _writable(cells: list[Any]) -> list[Any]:
    """The cells without zero bytes, which Python 3.10 refuses to write, and to read."""
    return [cell.replace("\0", "") if isinstance(cell, str) else cell for cell in cells]

"""Write `summary.csv`: one row for each run, with all numbers at full precision."""

from __future__ import annotations

import csv
import io
from typing import Any

from wgan_cli.report.comparison import Comparison
from wgan_cli.search.space import value_text


def table(comparison: Comparison) -> str:
    """Return CSV text with the runs by rank; column `counted` is 1 for runs that enter a mean."""
    keys = comparison.varying.keys
    tags = sorted({tag for run in comparison.runs for tag in run.final})
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    columns = ["run", "state", *keys, "seed", "counted", "step", "steps", "seconds"]
    rows.writerow(_writable([*columns, *tags, "message", "command"]))
    for run in comparison.runs:
        values = [value_text(run.settings[key]) if key in run.settings else "" for key in keys]
        counted = int(run.folder in comparison.counted)
        numbers = [repr(run.final[tag]) if tag in run.final else "" for tag in tags]
        cells = [run.name, run.state, *values, run.seed, counted, run.step, run.steps, run.seconds]
        rows.writerow(_writable([*cells, *numbers, run.message, run.command]))
    return file.getvalue()


def _writable(cells: list[Any]) -> list[Any]:
    """Return cells without zero bytes, which `csv` in Python 3.10 can neither write nor read."""
    return [cell.replace("\0", "") if isinstance(cell, str) else cell for cell in cells]

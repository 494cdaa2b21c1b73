"""Format the runs as a table for a terminal, and as CSV text with all numbers in full."""

from __future__ import annotations

import csv
import io
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from wgan_cli.report.comparison import Comparison
from wgan_cli.report.ranking import number
from wgan_cli.search.space import value_text
from wgan_cli.terminal_text import printable

# The terminal shows at most this many groups, but lists every run. The page shows all groups.
_MAX_SETTINGS = 20
# In a spreadsheet, cells that start with these are formulas, which may run programs.
_FORMULA = ("=", "+", "-", "@", "\t")
# If the last column would be narrower than this, it goes below the others, indented.
_MIN_WRAPPED = 24
_INDENT = 4


def screen_width() -> int | None:
    """Return the terminal's width in characters, or None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def terminal_table(comparison: Comparison, width: int | None) -> str:
    """Return the comparison as text: mean ± sd for each setting, the conclusion, and all runs."""
    lines = [*_wrapped(printable(comparison.heading()), width, 0), ""]
    if comparison.by is not None:
        lines += _settings(comparison, width)
        lines += ["", *_wrapped(printable(comparison.conclusion), width, 0), ""]
    return "\n".join([*lines, *_runs(comparison, width)])


def _settings(comparison: Comparison, width: int | None) -> list[str]:
    rows = [["", "mean", "± sd", "n", "real/real", "setting"]]
    for rank, group in enumerate(comparison.groups[:_MAX_SETTINGS]):
        best = rank == 0 and comparison.ranked and group.n and len(comparison.groups) > 1
        deviation = f"± {number(group.sd)}" if group.sd is not None else ""
        cells = [number(group.mean), deviation, str(group.n), number(group.floor)]
        rows.append(["*" if best else "", *cells, group.label])
    hidden = len(comparison.groups) - _MAX_SETTINGS
    more = [f"  and {hidden} more settings"] if hidden > 0 else []
    return _columns(rows, width, left=(0,)) + more


def _runs(comparison: Comparison, width: int | None) -> list[str]:
    rows = [["run", "state", comparison.by or "", "setting"]]
    for run in comparison.runs:
        progress = ""
        if run.step and not run.finished:
            progress = f"at step {run.step}" + (f" of {run.steps}" if run.steps else "")
        details = (comparison.label(run), progress, run.message, comparison.note(run))
        last = " ".join(filter(None, details))
        rows.append([run.name, run.state, number(comparison.value(run)), last])
    return _columns(rows, width, left=(0, 1))


def _columns(rows: Sequence[Sequence[str]], width: int | None, left: Sequence[int]) -> list[str]:
    """Return the rows as lines. Columns in `left` are left-aligned; the last wraps at `width`.

    In a narrow terminal, the last column goes below the others.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    start = sum(widths) + 2 * len(widths)
    narrow = width is not None and width - start < _MIN_WRAPPED
    indent = _INDENT if narrow else start
    lines = []
    for row in rows:
        cells = [
            f"{cell:<{cell_width}}" if column in left else f"{cell:>{cell_width}}"
            for column, (cell, cell_width) in enumerate(zip(row, widths, strict=False))
        ]
        last = _wrapped(row[-1], width, indent)
        beside = last.pop(0) if last and not narrow else ""
        lines.append("  ".join([*cells, beside]).rstrip())
        lines += [" " * indent + line for line in last]
    return lines


def _wrapped(text: str, width: int | None, indent: int) -> list[str]:
    if width is None:
        return [text]
    room = max(1, width - indent)
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)


def csv_table(comparison: Comparison) -> str:
    """Return CSV text with the runs by rank; `counted` is 1 for runs that are part of a mean."""
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
    return [_cell(cell) if isinstance(cell, str) else cell for cell in cells]


def _cell(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula; numbers stay as they are.

    `csv` in Python 3.10 can neither write nor read zero bytes, so they are left out. A carriage
    return becomes a space: `csv` does not quote it, and a spreadsheet starts a row there.
    """
    text = text.replace("\0", "").replace("\r", " ")
    if not text.lstrip(" ").startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text

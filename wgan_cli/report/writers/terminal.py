"""The ranked table for a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wgan_cli.report.ranking import number
from wgan_cli.report.runs import Run

if TYPE_CHECKING:
    from wgan_cli.report.report import Report

# More are on the page; a terminal shows what matters and every run's row.
_SETTINGS = 20
# A last column narrower than this is left to the terminal to fold.
_NARROWEST = 24


def screen_width() -> int | None:
    """The columns of the terminal that stdout is; None where it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(report: Report, width: int | None) -> str:
    """Settings with mean ± sd over seeds, the verdict, and a row a run."""
    lines = [_plain(report.heading()), ""]
    if report.by is not None:
        lines += _settings(report, width)
        lines += ["", *_folded(_plain(report.verdict), width, 0), ""]
    return "\n".join([*lines, *_runs(report, width)])


def _settings(report: Report, width: int | None) -> list[str]:
    rows = [["", "mean", "± sd", "n", "real/real", "setting"]]
    for place, setting in enumerate(report.settings[:_SETTINGS]):
        best = place == 0 and report.ranked and setting.n and len(report.settings) > 1
        mark = "*" if best else ""
        figures = [
            number(setting.mean),
            f"± {number(setting.sd)}" if setting.sd is not None else "",
        ]
        rows.append([mark, *figures, str(setting.n), number(setting.floor), setting.words])
    hidden = len(report.settings) - _SETTINGS
    more = [f"  and {hidden} more settings"] if hidden > 0 else []
    return _columns(rows, width, left=(0,)) + more


def _runs(report: Report, width: int | None) -> list[str]:
    rows = [["run", "state", report.by or "", "setting"]]
    for run in report.runs:
        about = (report.words(run), _course(run), run.message, report.note(run))
        told = " ".join(filter(None, about))
        rows.append([run.name, run.state, number(report.value(run)), told])
    return _columns(rows, width, left=(0, 1))


def _course(run: Run) -> str:
    """How far a run has come that is not done."""
    if run.finished or not run.step:
        return ""
    return f"at step {run.step}" + (f" of {run.steps}" if run.steps else "")


def _columns(rows: Sequence[Sequence[str]], width: int | None, left: Sequence[int]) -> list[str]:
    """Aligned columns, numbers to the right; the last, which is words, folded under itself."""
    rows = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    lines = []
    for row in rows:
        cells = [
            f"{cell:<{wide}}" if place in left else f"{cell:>{wide}}"
            for place, (cell, wide) in enumerate(zip(row, widths, strict=False))
        ]
        start = "  ".join([*cells, ""])
        first, *rest = _folded(row[-1], width, len(start)) or [""]
        lines.append(f"{start}{first}".rstrip())
        lines += [" " * len(start) + line for line in rest]
    return lines


def _folded(text: str, width: int | None, taken: int) -> list[str]:
    if width is None or width - taken < _NARROWEST:
        return [text]
    return textwrap.wrap(text, width - taken, break_long_words=False, break_on_hyphens=False)


def _plain(text: str) -> str:
    """On one line, without what a terminal would obey: someone else may have written it."""
    return "".join(sign if sign.isprintable() else " " for sign in text)

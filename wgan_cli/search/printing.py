"""Format the output of a search: a line for each trial, and a summary at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wgan_cli.search.space import value_text
from wgan_cli.search.study import FAILED, FINISHED, PRUNED, StudySummary, TrialSummary

_LISTED = 10


def trial_line(trial: TrialSummary, best: TrialSummary | None) -> str:
    """Return a line on a trial that has ended and on the best trial so far."""
    value = trial.reason if trial.state == FAILED else _short(trial.value)
    line = f"  #{trial.number:<3} {trial.state:<8}  {value}  {_settings(trial.params)}"
    return f"{line}  (best {_short(best.value)}, #{best.number})" if best else line


def final_summary(study: StudySummary, runs: Mapping[int, Path], command: str) -> str:
    """Return a text: the trials by state, the best trial, and the command that repeats it.

    `runs` maps trial numbers to run folders. `command` is the command line that trains with the
    best settings.
    """
    counts = ", ".join(f"{study.count(state)} {state}" for state in (FINISHED, PRUNED, FAILED))
    lines = [f"\n{trials_text(len(study.trials))}: {counts}. {study.metric}, the best first:", ""]
    for trial in study.ranked[:_LISTED]:
        lines.append(f"  #{trial.number:<4} {_short(trial.value):<8}  {_settings(trial.params)}")
    best = study.best
    if best is None:
        return "\n".join([*lines[:1], "  none finished"])
    if study.importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in study.importances.items())
        lines += ["", f"  importances    {shares}"]
    lines += [
        "",
        f"  the best run   {runs[best.number]}",
        f"  to repeat it   {command}",
        "  It was chosen on one seed: try it on others (-m … seed=1,2,3) before you trust it.",
    ]
    return "\n".join(lines)


def trials_text(count: int) -> str:
    """Return a count as text: "1 trial", "2 trials" and so on."""
    return f"{count} trial{'s' * (count != 1)}"


def _settings(params: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_short(value)}" for key, value in params.items())


def _short(value: Any) -> str:
    """Return a float with four digits, None as a dash, and other values as in an override."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)

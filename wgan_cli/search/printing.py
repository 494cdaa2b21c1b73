"""What a search prints: a line a trial, and its last words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wgan_cli.search.space import word
from wgan_cli.search.study import FAILED, FINISHED, PRUNED, StudyFacts, TrialFacts

_LISTED = 10


def trial_line(trial: TrialFacts, best: TrialFacts | None) -> str:
    """A trial that has ended, and the best until now."""
    value = trial.reason if trial.state == FAILED else short(trial.value)
    line = f"  #{trial.number:<3} {trial.state:<8}  {value}  {settings(trial.params)}"
    if best is None:
        return line
    return f"{line}  (best {short(best.value)}, #{best.number})"


def last_words(facts: StudyFacts, runs: Mapping[int, Path], command: str) -> str:
    """The best trials, how the others ended, and the command that trains the best setting.

    `runs` has the folder of each trial, `command` trains the best.
    """
    counts = ", ".join(f"{facts.count(state)} {state}" for state in (FINISHED, PRUNED, FAILED))
    lines = [f"\n{counted(len(facts.trials))}: {counts}. {facts.metric}, the best first:", ""]
    for trial in facts.ranked[:_LISTED]:
        lines.append(f"  #{trial.number:<4} {short(trial.value):<8}  {settings(trial.params)}")
    best = facts.best
    if best is None:
        return "\n".join([*lines[:1], "  none finished"])
    if facts.importances:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in facts.importances.items())
        lines += ["", f"  what mattered  {shares}"]
    lines += [
        "",
        f"  the best run   {runs[best.number]}",
        f"  once more      {command}",
        "  One seed chose it: try it over others (-m … seed=1,2,3) before believing it.",
    ]
    return "\n".join(lines)


def counted(trials: int) -> str:
    """So many trials."""
    return f"{trials} trial{'s' * (trials != 1)}"


def settings(params: Mapping[str, Any]) -> str:
    """Settings as words, numbers to four digits."""
    return " ".join(f"{key}={short(value)}" for key, value in params.items())


def short(value: Any) -> str:
    """A number to four digits, anything else as it is typed; – for none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else word(value)

"""Summarize an Optuna study as plain data and as text, for the search's output and the report."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgan_cli.errors import CheckpointError
from wgan_cli.files import disk_error
from wgan_cli.search.folder import SearchFolder, reading_study
from wgan_cli.search.space import Range, Search, value_text
from wgan_cli.terminal_text import printable

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FINISHED, PRUNED, FAILED, RUNNING = "finished", "pruned", "failed", "running"
_STATES = {"COMPLETE": FINISHED, "PRUNED": PRUNED, "FAIL": FAILED}
REASON = "reason"
# With fewer finished trials than this, importances would be mostly noise.
_MIN_FINISHED = 8
# The number of trials that the final summary lists.
_LISTED = 10


@dataclass(frozen=True)
class TrialSummary:
    """One trial: `params` are its settings, and `history` maps steps to values of the metric.

    `state` is finished, pruned, failed or running. If the search is killed, its trial stays in the
    state "running" until the trial is resumed. `value` is the final value of the metric, or the
    last value before pruning. `reason` says why a trial failed.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    reason: str = ""
    history: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySummary:
    """A study: `total` is the planned number of trials, and `trials` are those started so far.

    `importances` maps settings to their importance, computed by Optuna with PED-ANOVA over finished
    trials. The importances sum to 1, and the largest comes first. If too few trials have finished,
    the mapping is empty.
    """

    metric: str
    direction: str
    total: int
    trials: tuple[TrialSummary, ...]
    importances: dict[str, float]

    @property
    def best(self) -> TrialSummary | None:
        """The finished trial with the best value, or None if none has finished."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[TrialSummary]:
        """The finished trials, the best first; trials of equal value are sorted by number."""
        sign = 1 if self.direction == "minimize" else -1
        finished = [t for t in self.trials if t.state == FINISHED and t.value is not None]
        return sorted(finished, key=lambda trial: sign * (trial.value or 0.0))

    @property
    def best_so_far(self) -> dict[int, float]:
        """Maps each trial's number to the best value so far. Starts at the first finished trial."""
        best: dict[int, float] = {}
        values: list[float] = []
        for trial in self.trials:
            if trial.state == FINISHED and trial.value is not None:
                values.append(trial.value)
            if values:
                best[trial.number] = min(values) if self.direction == "minimize" else max(values)
        return best

    def count(self, state: str) -> int:
        """Return the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)


def read_study(folder: Path, named: Collection[str] = ()) -> StudySummary | None:
    """Return a summary of the study in `folder`, or None if there is none that can be read.

    Without Optuna, the result is also None. This function never writes to a file or database of the
    search. Raises `CheckpointError` if the study is outside `folder`, in a database that is not in
    `named`, or if the system refuses to open it or to make a temporary copy.
    """
    if not SearchFolder(folder).holds_search():
        return None
    try:
        with reading_study(folder, named) as (search, study):
            return _summary(search, study)
    except CheckpointError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename:
            # The study's own file is missing.
            return None
        why = disk_error(error, folder, done="read")
        raise CheckpointError(f"The study cannot be read. {why}") from None
    except Exception:
        # Damaged files can raise any exception; the report then leaves out the study.
        return None


def summarize_study(folder: SearchFolder, study: Study) -> StudySummary:
    """Return a summary of an open study."""
    return _summary(folder.read()[0], study)


def _summary(search: Search, study: Study) -> StudySummary:
    trials = tuple(_summarize_trial(trial, search) for trial in study.get_trials(deepcopy=False))
    # Another process may still run with a larger total than the saved one.
    total = max(search.trials, len(trials))
    return StudySummary(search.metric, search.direction, total, trials, _importances(study, trials))


def _summarize_trial(trial: FrozenTrial, search: Search) -> TrialSummary:
    """Return a summary of an Optuna trial, with settings rounded as in training."""
    value, params = trial.value, dict(trial.params)
    for key, entry in search.settings.items():
        if isinstance(entry, Range) and isinstance(params.get(key), float):
            params[key] = entry.rounded(params[key])
    return TrialSummary(
        number=trial.number,
        state=_STATES.get(trial.state.name, RUNNING),
        value=value if value is not None and math.isfinite(value) else None,
        params={printable(key): _plain(given) for key, given in params.items()},
        reason=printable(str(trial.user_attrs.get(REASON, ""))),
        history=dict(sorted(trial.intermediate_values.items())),
    )


def _plain(value: Any) -> Any:
    """Return a setting's value. A study from elsewhere may have any JSON there: return its text."""
    if isinstance(value, str) or not isinstance(value, int | float | None):
        return printable(str(value))
    return value


def _importances(study: Study, trials: tuple[TrialSummary, ...]) -> dict[str, float]:
    from optuna.importance import get_param_importances

    finished = [trial for trial in trials if trial.state == FINISHED]
    settings = {key for trial in finished for key in trial.params}
    varying = {k for k in settings if len({repr(t.params.get(k)) for t in finished}) > 1}
    if len(finished) < _MIN_FINISHED or len(varying) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importances = get_param_importances(study, params=sorted(varying))
        except (ValueError, RuntimeError):
            return {}
    shares = {printable(key): float(share) for key, share in importances.items()}
    return shares if all(map(math.isfinite, shares.values())) else {}


def trial_line(trial: TrialSummary, best: TrialSummary | None) -> str:
    """Return a line of text about a trial that has ended and about the best trial so far."""
    value = trial.reason if trial.state == FAILED else _short(trial.value)
    line = f"  #{trial.number:<3} {trial.state:<8}  {value}  {_settings(trial.params)}"
    return f"{line}  (best {_short(best.value)}, #{best.number})" if best else line


def final_summary(study: StudySummary, runs: Mapping[int, Path], command: str) -> str:
    """Return a text: the number of trials by state, the best trials, and how to repeat the best.

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

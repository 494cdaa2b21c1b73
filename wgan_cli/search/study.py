"""Summarize a study without Optuna's types, for the search's printed lines and the report."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.space import Range, Search

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

FINISHED, PRUNED, FAILED, RUNNING = "finished", "pruned", "failed", "running"
_STATES = {"COMPLETE": FINISHED, "PRUNED": PRUNED, "FAIL": FAILED}
REASON = "reason"
# With fewer finished trials, importances are mostly chance.
_MIN_FINISHED = 8


@dataclass(frozen=True)
class TrialSummary:
    """One trial: its settings are `params`, and `history` is the metric by step.

    `state` is finished, pruned, failed or running; a trial whose search was killed stays running
    until it is resumed. The `value` of a pruned trial is its last one. `reason` says why a trial
    failed.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    reason: str = ""
    history: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySummary:
    """A study of `total` trials, of which `trials` exist so far.

    `importances` by setting are Optuna's (PED-ANOVA over finished trials), the largest first. They
    sum to 1; there are none where too few trials have finished.
    """

    metric: str
    direction: str
    total: int
    trials: tuple[TrialSummary, ...]
    importances: dict[str, float]

    @property
    def best(self) -> TrialSummary | None:
        """The finished trial with the best value, or None."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[TrialSummary]:
        """The finished trials, the best first; equal ones in the order of their numbers."""
        sign = 1 if self.direction == "minimize" else -1
        finished = [t for t in self.trials if t.state == FINISHED and t.value is not None]
        return sorted(finished, key=lambda trial: sign * (trial.value or 0.0))

    @property
    def best_so_far(self) -> dict[int, float]:
        """The best finished value up to each trial, by number, from the first finished one on."""
        best: dict[int, float] = {}
        values: list[float] = []
        for trial in self.trials:
            if trial.state == FINISHED and trial.value is not None:
                values.append(trial.value)
            if values:
                best[trial.number] = min(values) if self.direction == "minimize" else max(values)
        return best

    def count(self, state: str) -> int:
        """Return how many trials are in a state."""
        return sum(trial.state == state for trial in self.trials)


def read_study(folder: Path) -> StudySummary | None:
    """Summarize the search in `folder`; None where it cannot be read or Optuna is not installed.

    Never writes and never raises.
    """
    search_folder = SearchFolder(folder)
    try:
        from wgan_cli.search.storage import open_study

        return summarize_study(search_folder, open_study(search_folder, read_only=True))
    except Exception:
        # The files may be damaged in any way; the report then leaves the study out.
        return None


def summarize_study(folder: SearchFolder, study: Study) -> StudySummary:
    """Summarize an open study."""
    search, _, _ = folder.read()
    trials = tuple(_summarize_trial(trial, search) for trial in study.get_trials(deepcopy=False))
    # The saved total may have been lowered while a process still works towards a larger one.
    total = max(search.trials, len(trials))
    return StudySummary(search.metric, search.direction, total, trials, _importances(study, trials))


def _summarize_trial(trial: FrozenTrial, search: Search) -> TrialSummary:
    """Summarize one of Optuna's trials, with its settings rounded as they are trained."""
    value, params = trial.value, dict(trial.params)
    for key, entry in search.settings.items():
        if isinstance(entry, Range) and isinstance(params.get(key), float):
            params[key] = entry.rounded(params[key])
    return TrialSummary(
        number=trial.number,
        state=_STATES.get(trial.state.name, RUNNING),
        value=value if value is not None and math.isfinite(value) else None,
        params=params,
        reason=str(trial.user_attrs.get(REASON, "")),
        history=dict(sorted(trial.intermediate_values.items())),
    )


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
    shares = {key: float(share) for key, share in importances.items()}
    return shares if all(map(math.isfinite, shares.values())) else {}

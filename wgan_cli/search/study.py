"""What a search has found so far, in plain words and numbers: for its last lines and the report."""

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
# Below this, importances follow from which trials there happen to be.
_ENOUGH = 8


@dataclass(frozen=True)
class TrialFacts:
    """One trial. `course` is the metric by step; a pruned one's value is its last.

    `state` is finished, pruned, failed or running, which a killed search's trials stay until the
    search goes on; `reason` says why it failed.
    """

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    reason: str = ""
    course: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyFacts:
    """A study: `asked` trials in all, `importances` by setting (sum 1), the largest first.

    Importances are Optuna's (PED-ANOVA, over finished trials), empty where there are too few.
    """

    metric: str
    direction: str
    asked: int
    trials: tuple[TrialFacts, ...]
    importances: dict[str, float]

    @property
    def best(self) -> TrialFacts | None:
        """The finished trial with the best value, or None."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[TrialFacts]:
        """The finished trials, the best first; of equal ones the earlier."""
        sign = 1 if self.direction == "minimize" else -1
        found = [
            (sign * trial.value, trial.number, trial)
            for trial in self.trials
            if trial.state == FINISHED and trial.value is not None
        ]
        return [trial for _, _, trial in sorted(found, key=lambda entry: entry[:2])]

    def count(self, state: str) -> int:
        """How many trials are in this state."""
        return sum(trial.state == state for trial in self.trials)


@dataclass(frozen=True)
class HistoryPoint:
    """A trial's value, None where it has none, and the best of the finished ones until then."""

    number: int
    state: str
    value: float | None
    best: float | None


def history(facts: StudyFacts) -> list[HistoryPoint]:
    """A point a trial, in order."""
    points: list[HistoryPoint] = []
    best: float | None = None
    better = min if facts.direction == "minimize" else max
    for trial in facts.trials:
        if trial.state == FINISHED and trial.value is not None:
            best = trial.value if best is None else better(best, trial.value)
        points.append(HistoryPoint(trial.number, trial.state, trial.value, best))
    return points


def read_study(folder: Path) -> StudyFacts | None:
    """The study of the search in `folder`; None where there is none that can be read.

    Also None where Optuna is not installed. Never writes, never raises.
    """
    place = SearchFolder(folder)
    try:
        from wgan_cli.search.storage import open_study

        return facts_of(place, open_study(place, reading=True))
    except Exception:
        # Whatever an editor, a kill or another version left: a page about runs goes without it.
        return None


def facts_of(folder: SearchFolder, study: Study) -> StudyFacts:
    """What an open study holds."""
    search, _, _ = folder.read()
    trials = tuple(trial_facts(trial, search) for trial in study.get_trials(deepcopy=False))
    # A smaller total may be noted while a process goes on to its own.
    asked = max(search.trials, len(trials))
    return StudyFacts(search.metric, search.direction, asked, trials, _importances(study, trials))


def trial_facts(trial: FrozenTrial, search: Search) -> TrialFacts:
    """One of Optuna's trials, its settings as they are trained."""
    value, params = trial.value, dict(trial.params)
    for key, entry in search.settings.items():
        if isinstance(entry, Range) and isinstance(params.get(key), float):
            params[key] = entry.tidy(params[key])
    return TrialFacts(
        number=trial.number,
        state=_STATES.get(trial.state.name, RUNNING),
        value=value if value is not None and math.isfinite(value) else None,
        params=params,
        reason=str(trial.user_attrs.get(REASON, "")),
        course=dict(sorted(trial.intermediate_values.items())),
    )


def _importances(study: Study, trials: tuple[TrialFacts, ...]) -> dict[str, float]:
    from optuna.importance import get_param_importances

    finished = [trial for trial in trials if trial.state == FINISHED]
    settings = {key for trial in finished for key in trial.params}
    varied = {k for k in settings if len({repr(t.params.get(k)) for t in finished}) > 1}
    if len(finished) < _ENOUGH or len(varied) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = get_param_importances(study, params=sorted(varied))
        except (ValueError, RuntimeError):
            return {}
    shares = {key: float(share) for key, share in found.items()}
    return shares if all(map(math.isfinite, shares.values())) else {}

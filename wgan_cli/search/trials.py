"""Choose the next trial: one that a dead process left behind, else a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.space import Choices, Search, Value
from wgan_cli.search.storage import sampler_for

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import Trial


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that only this process may run while `lock` is open.

    `resumed` says that another process had started it.
    """

    trial: Trial
    values: dict[str, Value]
    lock: TextIO
    resumed: bool


@dataclass(frozen=True)
class NoTrialLeft:
    """No trial is left to start; `running_elsewhere` trials still run in other processes."""

    running_elsewhere: int


def claim_trial(
    folder: SearchFolder,
    study: Study,
    search: Search,
    first_values: Mapping[str, Value] | None = None,
) -> ClaimedTrial | NoTrialLeft:
    """Return the next trial, with its settings proposed and its folder locked.

    Trial 0 takes the settings in `first_values`; the sampler proposes the others. Processes that
    share a folder take turns here, so that together they start at most `search.trials`. A trial
    that is recorded as running and whose lock is free belonged to a dead process: it comes first
    and keeps its number. Raises `ConfigError` where the next trial's folder already holds a run.
    """
    from optuna.trial import Trial, TrialState

    with folder.claiming():
        running_elsewhere = 0
        for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = folder.lock_trial(running.number)
            if lock is None:
                running_elsewhere += 1
                continue
            # The trial may have ended since it was listed.
            if study.get_trials(deepcopy=False)[running.number].state != TrialState.RUNNING:
                lock.close()
                continue
            study.sampler = sampler_for(search, running.number)
            trial = Trial(study, running._trial_id)
            return ClaimedTrial(trial, _propose(trial, search), lock, resumed=True)
        existing = study.get_trials(deepcopy=False)
        # A process that was killed may have left the enqueued first trial waiting.
        number = sum(trial.state != TrialState.WAITING for trial in existing)
        if number >= search.trials:
            return NoTrialLeft(running_elsewhere)
        folder.refuse_foreign_run(number)
        if first_values and not existing:
            study.enqueue_trial(dict(first_values))
        study.sampler = sampler_for(search, number)
        trial = study.ask()
        new_lock = folder.lock_trial(trial.number)
        assert new_lock is not None, "nobody else can hold the lock of a new trial"
        return ClaimedTrial(trial, _propose(trial, search), new_lock, resumed=False)


def _propose(trial: Trial, search: Search) -> dict[str, Value]:
    """Propose a value for every setting; values that were proposed before a kill stay."""
    values: dict[str, Value] = {}
    for key, entry in search.settings.items():
        if isinstance(entry, Choices):
            values[key] = trial.suggest_categorical(key, entry.values)
        elif entry.integer:
            values[key] = trial.suggest_int(
                key, int(entry.low), int(entry.high), step=int(entry.step or 1), log=entry.log
            )
        else:
            values[key] = entry.rounded(
                trial.suggest_float(key, entry.low, entry.high, step=entry.step, log=entry.log)
            )
    return values

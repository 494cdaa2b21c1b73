"""Choose the next trial: an unfinished trial of a dead process if there is one, else a new one."""

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

    `values` are its settings by key. `resumed` is true if an earlier process started the trial.
    """

    trial: Trial
    values: dict[str, Value]
    lock: TextIO
    resumed: bool


@dataclass(frozen=True)
class NoTrialLeft:
    """No trial is left to start; `running_elsewhere` is the number running in other processes."""

    running_elsewhere: int


def claim_trial(
    folder: SearchFolder,
    study: Study,
    search: Search,
    first_values: Mapping[str, Value] | None = None,
) -> ClaimedTrial | NoTrialLeft:
    """Lock and return the next trial with its settings, or `NoTrialLeft`.

    Trial 0 uses the settings in `first_values`; the sampler proposes all other settings. A lock
    ensures that processes sharing a folder start at most `search.trials` trials in total. If a
    trial is recorded as running but its lock is free, its process is dead: this trial comes first
    and keeps its number. Raises `ConfigError` if the folder of a new trial already holds a run.
    """
    from optuna.trial import Trial, TrialState

    with folder.claiming():
        running_elsewhere = 0
        for running in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = folder.lock_trial(running.number)
            if lock is None:
                running_elsewhere += 1
                continue
            # The trial may have ended after it was listed.
            if study.get_trials(deepcopy=False)[running.number].state != TrialState.RUNNING:
                lock.close()
                continue
            study.sampler = sampler_for(search, running.number)
            trial = Trial(study, running._trial_id)
            return ClaimedTrial(trial, _propose(trial, search), lock, resumed=True)
        existing = study.get_trials(deepcopy=False)
        # If a process was killed after enqueueing trial 0, that trial waits and is not started.
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
    """Return a value for every setting; a resumed trial keeps the values proposed earlier."""
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

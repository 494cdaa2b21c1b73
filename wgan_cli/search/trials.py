"""Which trial comes next: one that a dead process left, else a new one."""

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
class Claim:
    """A trial that this process carries out, and nobody else while `lock` is open."""

    trial: Trial
    values: dict[str, Value]
    lock: TextIO
    again: bool


@dataclass(frozen=True)
class NoneFree:
    """No trial is left to begin; `elsewhere` are still under way in other processes."""

    elsewhere: int


def claim(
    folder: SearchFolder, study: Study, search: Search, first: Mapping[str, Value] | None = None
) -> Claim | NoneFree:
    """The next trial, its settings proposed and its folder locked.

    Trial 0 has the values of `first` for its settings, as far as they go.

    Processes that share a folder choose one after another, so that together they begin no more
    than `search.trials`. A trial that is running by the study, and whose lock is free, belonged to
    a process that died: it comes first, under its own number. Raises `ConfigError` where the next
    number's folder holds a run already.
    """
    from optuna.trial import Trial, TrialState

    with folder.alone():
        elsewhere = 0
        for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = folder.lock_of(left.number)
            if lock is None:
                elsewhere += 1
                continue
            # It may have ended since it was listed.
            if study.get_trials(deepcopy=False)[left.number].state != TrialState.RUNNING:
                lock.close()
                continue
            study.sampler = sampler_for(search, left.number)
            trial = Trial(study, left._trial_id)
            return Claim(trial, _proposed(trial, search), lock, again=True)
        there = study.get_trials(deepcopy=False)
        # A kill may have left the first one waiting.
        number = sum(trial.state != TrialState.WAITING for trial in there)
        if number >= search.trials:
            return NoneFree(elsewhere)
        folder.refuse_foreign(number)
        if first and not there:
            study.enqueue_trial(dict(first))
        study.sampler = sampler_for(search, number)
        trial = study.ask()
        new = folder.lock_of(trial.number)
        assert new is not None, "a trial that was not there has no owner"
        return Claim(trial, _proposed(trial, search), new, again=False)


def _proposed(trial: Trial, search: Search) -> dict[str, Value]:
    """Every setting's value: the one proposed before, also where a kill left only some of them."""
    values: dict[str, Value] = {}
    for key, entry in search.settings.items():
        if isinstance(entry, Choices):
            values[key] = trial.suggest_categorical(key, entry.ends())
        elif entry.whole:
            values[key] = trial.suggest_int(
                key, int(entry.low), int(entry.high), step=int(entry.step or 1), log=entry.log
            )
        else:
            values[key] = entry.tidy(
                trial.suggest_float(key, entry.low, entry.high, step=entry.step, log=entry.log)
            )
    return values

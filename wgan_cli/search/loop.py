"""Run the trials of a search, one after another, until the total number is reached.

If a dead process left a trial unfinished, this trial is the next one. Otherwise the next one is a
new trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from wgan_cli.errors import (
    ConfigError,
    DataError,
    DiskError,
    InterruptedRunError,
    PreemptedError,
    WganError,
)
from wgan_cli.run_folder import RunFolder
from wgan_cli.search.folder import SearchFolder, open_study
from wgan_cli.search.space import Choices, Search, Value, as_overrides
from wgan_cli.search.study import (
    FAILED,
    FINISHED,
    PRUNED,
    REASON,
    StudySummary,
    summarize_study,
    trial_line,
    trials_text,
)
from wgan_cli.search.trial_process import POLL_SECONDS, STOPPED, MetricReader, run_trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial that only this process may run while `lock` is open.

    `values` maps the trial's settings to their values. `resumed` is true if an earlier process
    started the trial.
    """

    trial: Trial
    values: dict[str, Value]
    lock: TextIO
    resumed: bool


@dataclass(frozen=True)
class NoTrialLeft:
    """No trial is left to start. Other processes still run `running_elsewhere` trials."""

    running_elsewhere: int


@dataclass
class SearchLoop:
    """Runs the trials of the search in `folder`.

    `command` maps overrides and a run folder to the command line that trains with them.
    `stop_error` returns an error after a stop signal, otherwise None. `print_line` prints progress.
    `first_values` are the settings of trial 0.
    """

    folder: SearchFolder
    command: Callable[[Sequence[str], Path], Sequence[str]]
    stop_error: Callable[[], WganError | None]
    print_line: Callable[[str], None]
    first_values: Mapping[str, Value] | None = None

    @cached_property
    def search(self) -> Search:
        """The search, as read from the folder on first use."""
        return self.folder.read()[0]

    def run(self) -> StudySummary:
        """Run trials until all processes together reach the total; return the study's summary.

        Raises the error of `stop_error` after a stop signal, and `DiskError`. Two more errors end
        the search, because every further trial would raise them again: `DataError` if no trial has
        finished yet, and `ConfigError` if runs do not measure the metric or a trial's folder holds
        a run of another study. After a stop, a full disk or a run of another study, the trial stays
        recorded as running, and the next start of the search resumes it.
        """
        from optuna.exceptions import StorageInternalError

        study = open_study(self.folder)
        try:
            self._run_trials(study)
            return summarize_study(self.folder, study)
        except StorageInternalError as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise DiskError(f"The study cannot be read or written: {reason}") from None

    def _run_trials(self, study: Study) -> None:
        waiting = False
        while True:
            if (error := self.stop_error()) is not None:
                raise error
            claimed = claim_trial(self.folder, study, self.search, self.first_values)
            if isinstance(claimed, ClaimedTrial):
                with claimed.lock:
                    self._run_trial(study, claimed)
                continue
            others = claimed.running_elsewhere
            if not others:
                return
            if not waiting:
                where = f"{trials_text(others)} in other processes"
                self.print_line(f"No trial is left to start; waiting for {where}.")
                waiting = True
            time.sleep(POLL_SECONDS)

    def _run_trial(self, study: Study, claimed: ClaimedTrial) -> None:
        from optuna.trial import TrialState

        trial, number = claimed.trial, claimed.trial.number
        run = RunFolder(self.folder.trial(number))
        overrides = [*self.search.words, *as_overrides(claimed.values)]
        if claimed.resumed:
            self.folder.refuse_foreign_run(number, overrides)
            self.print_line(f"  #{number} is resumed.")
        metric = MetricReader(run, self.search.metric)
        reported = set(study.get_trials(deepcopy=False)[number].intermediate_values)

        def report(step: int, value: float) -> bool:
            if step not in reported:
                trial.report(value, step)
            return trial.should_prune()

        command = self.command(overrides, run.path)
        outcome = run_trial(command, metric, claimed.lock, report, self.stop_error)
        if outcome.state == STOPPED:
            if (error := self.stop_error()) is not None:
                raise error
            # This process got no stop signal, so someone else has sent one to the trial's process.
            interrupted = outcome.code == InterruptedRunError.exit_code
            stopped = InterruptedRunError if interrupted else PreemptedError
            raise stopped(f"Trial {number} was asked to stop, and saved itself.")
        if outcome.code == DiskError.exit_code:
            raise DiskError(outcome.reason)
        if outcome.state == FAILED:
            trial.set_user_attr(REASON, outcome.reason)
        ended = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
        study.tell(trial, outcome.value, state=ended[outcome.state])
        summary = summarize_study(self.folder, study)
        self.print_line(trial_line(summary.trials[number], summary.best))
        # In two cases, all further trials would fail for the same reason.
        if outcome.code == DataError.exit_code and not summary.count(FINISHED):
            raise DataError(outcome.reason)
        if outcome.state == FAILED and not outcome.code and not metric.values:
            measured = ", ".join(sorted(metric.tags - {"step"}))
            raise ConfigError(
                f"metric: {self.search.metric}: a run measured no such tag, only {measured}."
            )


def claim_trial(
    folder: SearchFolder,
    study: Study,
    search: Search,
    first_values: Mapping[str, Value] | None = None,
) -> ClaimedTrial | NoTrialLeft:
    """Lock and return the next trial with its settings, or `NoTrialLeft`.

    Trial 0 uses the settings in `first_values`; the sampler proposes all other settings. A lock
    ensures that processes that share a folder start at most `search.trials` trials in total. If a
    trial is recorded as running but its lock is free, the trial's process is dead. Such a trial
    comes first and keeps its number. Raises `ConfigError` if the folder of a new trial already
    holds a run.
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
            study.sampler = _sampler_for(search, running.number)
            trial = Trial(study, running._trial_id)
            return ClaimedTrial(trial, _propose(trial, search), lock, resumed=True)
        existing = study.get_trials(deepcopy=False)
        # Do not count a waiting trial: a process was killed after enqueueing trial 0, before it
        # started.
        number = sum(trial.state != TrialState.WAITING for trial in existing)
        if number >= search.trials:
            return NoTrialLeft(running_elsewhere)
        folder.refuse_foreign_run(number)
        if first_values and not existing:
            study.enqueue_trial(dict(first_values))
        study.sampler = _sampler_for(search, number)
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


def _sampler_for(search: Search, number: int) -> BaseSampler:
    """Return the sampler that proposes the settings of trial `number`.

    The sampler's seed depends on the search's seed and the trial's number. With the same seed for
    all trials, each process would propose the same settings, and again after each restart.
    """
    import optuna

    seed = int(np.random.SeedSequence([search.sampler.seed, number]).generate_state(1)[0])
    if search.sampler.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)

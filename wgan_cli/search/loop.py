"""Run the trials of a search, one after another, until the total number is reached."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wgan_cli.errors import (
    ConfigError,
    DataError,
    DiskError,
    InterruptedRunError,
    PreemptedError,
    WganError,
)
from wgan_cli.run_folder import RunFolder
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.space import Search, Value, as_overrides
from wgan_cli.search.storage import open_study
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
from wgan_cli.search.trial_process import POLL_SECONDS, STOPPED, MetricReader, Outcome, run_trial
from wgan_cli.search.trials import ClaimedTrial, claim_trial

if TYPE_CHECKING:
    from optuna.study import Study

# Maps overrides and a run folder to the command line that trains with them.
TrialCommand = Callable[[Sequence[str], Path], Sequence[str]]


@dataclass
class SearchLoop:
    """Runs the trials of the search in `folder`.

    `command` returns a trial's command line. `stop_error` returns an error after a stop signal,
    otherwise None. `print_line` prints progress. `first_values` are the settings of trial 0.
    """

    folder: SearchFolder
    command: TrialCommand
    stop_error: Callable[[], WganError | None]
    print_line: Callable[[str], None]
    first_values: Mapping[str, Value] | None = None

    @cached_property
    def search(self) -> Search:
        """The search, as read from the folder on first use."""
        return self.folder.read()[0]

    def run(self) -> StudySummary:
        """Run trials until all processes together reach the total; return the study's summary.

        Raises the error of `stop_error` after a stop signal, and `DiskError`. Also raises errors
        that every further trial would repeat: `DataError` if no trial has finished yet,
        `ConfigError` if runs do not measure the metric or a trial's folder holds another study's
        run. After a stop, a full disk or another study's run, the trial stays recorded as running,
        and the next start resumes it.
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
            self._raise_stop_error()
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
            self._raise_stop_error()
            # This process got no stop signal, so the trial got one from elsewhere.
            interrupted = outcome.code == InterruptedRunError.exit_code
            error = InterruptedRunError if interrupted else PreemptedError
            raise error(f"Trial {number} was asked to stop, and saved itself.")
        if outcome.code == DiskError.exit_code:
            raise DiskError(outcome.reason)
        _record(study, claimed, outcome)
        summary = summarize_study(self.folder, study)
        self.print_line(trial_line(summary.trials[number], summary.best))
        _refuse_common_failure(outcome, metric, self.search, summary)

    def _raise_stop_error(self) -> None:
        error = self.stop_error()
        if error is not None:
            raise error


def _record(study: Study, claimed: ClaimedTrial, outcome: Outcome) -> None:
    from optuna.trial import TrialState

    if outcome.state == FINISHED:
        study.tell(claimed.trial, outcome.value)
    elif outcome.state == PRUNED:
        study.tell(claimed.trial, state=TrialState.PRUNED)
    else:
        claimed.trial.set_user_attr(REASON, outcome.reason)
        study.tell(claimed.trial, state=TrialState.FAIL)


def _refuse_common_failure(
    outcome: Outcome, metric: MetricReader, search: Search, study: StudySummary
) -> None:
    """Raise an error if all further trials would fail for the same reason as this one."""
    if outcome.code == DataError.exit_code and not study.count(FINISHED):
        raise DataError(outcome.reason)
    if outcome.state == FAILED and not outcome.code and not metric.values:
        measured = ", ".join(sorted(metric.tags - {"step"}))
        raise ConfigError(f"metric: {search.metric}: a run measured no such tag, only {measured}.")

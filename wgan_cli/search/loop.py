"""A search from its first trial to its last, whatever happens to the trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from wgan_cli.search.printing import counted, trial_line
from wgan_cli.search.space import Search, Value, as_words
from wgan_cli.search.storage import open_study
from wgan_cli.search.study import FAILED, FINISHED, PRUNED, REASON, StudyFacts, facts_of
from wgan_cli.search.trial_process import PAUSE, STOPPED, Course, Ending, carry_out
from wgan_cli.search.trials import Claim, NoneFree, claim

if TYPE_CHECKING:
    from optuna.study import Study

# The command that trains these words in this folder.
Command = Callable[[Sequence[str], Path], Sequence[str]]


class Searching:
    """Carries out the trials of the search begun in a folder.

    `command` makes a trial's command line, `asked` gives the error by which the search is to end,
    `say` prints a line, `first` has values for trial 0.
    """

    def __init__(
        self,
        folder: SearchFolder,
        command: Command,
        asked: Callable[[], WganError | None],
        say: Callable[[str], None],
        first: Mapping[str, Value] | None = None,
    ) -> None:
        self.folder = folder
        self.search, _, _ = folder.read()
        self.command = command
        self.asked = asked
        self.say = say
        self.first = first

    def run(self) -> StudyFacts:
        """Carry out trials until the total is reached, by this process and others.

        Raises what `asked` gives, `DiskError`, and what every other trial would fail by:
        `DataError` before any has finished, `ConfigError` for a metric that a run does not measure
        and for a trial's folder that holds another study's run.
        A trial under way then stays running by the study, to be taken up by the next start.
        """
        from optuna.exceptions import StorageInternalError

        study = open_study(self.folder)
        try:
            self._all_trials(study)
            return facts_of(self.folder, study)
        except StorageInternalError as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise DiskError(f"The study cannot be read or written: {reason}") from None

    def _all_trials(self, study: Study) -> None:
        told = False
        while True:
            self._stop_if_asked()
            found = claim(self.folder, study, self.search, self.first)
            if isinstance(found, Claim):
                with found.lock:
                    self._one_trial(study, found)
                continue
            if not found.elsewhere:
                return
            if not told:
                self.say(_waiting(found))
                told = True
            time.sleep(PAUSE)

    def _one_trial(self, study: Study, found: Claim) -> None:
        trial, number = found.trial, found.trial.number
        run = RunFolder(self.folder.trial(number))
        words = [*self.search.words, *as_words(found.values)]
        if found.again:
            self.folder.refuse_foreign(number, words)
            self.say(f"  #{number} is taken up where it was left.")
        course = Course(run, self.search.metric)
        before = set(study.get_trials(deepcopy=False)[number].intermediate_values)

        def report(step: int, value: float) -> bool:
            if step not in before:
                trial.report(value, step)
            return trial.should_prune()

        ending = carry_out(self.command(words, run.path), course, found.lock, report, self.asked)
        if ending.state == STOPPED:
            self._stop_if_asked()
            raise _stopped_by_another(ending, number)
        if ending.code == DiskError.exit_code:
            raise DiskError(ending.reason)
        self._tell(study, found, ending)
        facts = facts_of(self.folder, study)
        self.say(trial_line(facts.trials[number], facts.best))
        _refuse_what_all_fail_by(ending, course, self.search, facts)

    def _tell(self, study: Study, found: Claim, ending: Ending) -> None:
        from optuna.trial import TrialState

        if ending.state == FINISHED:
            study.tell(found.trial, ending.value)
        elif ending.state == PRUNED:
            study.tell(found.trial, state=TrialState.PRUNED)
        else:
            found.trial.set_user_attr(REASON, ending.reason)
            study.tell(found.trial, state=TrialState.FAIL)

    def _stop_if_asked(self) -> None:
        error = self.asked()
        if error is not None:
            raise error


def _refuse_what_all_fail_by(
    ending: Ending, course: Course, search: Search, facts: StudyFacts
) -> None:
    if ending.code == DataError.exit_code and not facts.count(FINISHED):
        raise DataError(ending.reason)
    if ending.state == FAILED and not ending.code and not course.values:
        there = ", ".join(sorted(course.tags - {"step"}))
        raise ConfigError(f"metric: {search.metric}: a run measured no such tag, only {there}.")


def _stopped_by_another(ending: Ending, number: int) -> WganError:
    message = f"Trial {number} was asked to stop, and saved itself."
    if ending.code == InterruptedRunError.exit_code:
        return InterruptedRunError(message)
    return PreemptedError(message)


def _waiting(found: NoneFree) -> str:
    return f"No trial is left to begin; waiting for {counted(found.elsewhere)} of other processes."

"""Copy the states of a search's trials to their runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from wgan_cli.report.runs import Run
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.study import FAILED, PRUNED, StudySummary

_PRUNED_REASON = "ended early: worse than half of the trials before it"


def apply_trial_states(runs: Iterable[Run], folder: Path, study: StudySummary) -> None:
    """Set the state and message of the search's runs in `folder` from their trials.

    The study has details that a run's status lacks: the run of a pruned trial only records a stop
    signal, and a killed run records nothing. Finished runs and running trials do not change.
    """
    search_folder = SearchFolder(folder)
    trials = {os.path.realpath(search_folder.trial(t.number)): t for t in study.trials}
    for run in runs:
        trial = trials.get(os.path.realpath(run.folder))
        if trial is not None and trial.state in (PRUNED, FAILED) and not run.finished:
            run.state = trial.state
            run.message = _PRUNED_REASON if trial.state == PRUNED else trial.reason

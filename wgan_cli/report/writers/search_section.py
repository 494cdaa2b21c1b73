"""The page's section on a search: every trial's value, the best so far, and what mattered."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wgan_cli.report.ranking import number
from wgan_cli.report.runs import Run
from wgan_cli.report.settings import in_words
from wgan_cli.report.writers.drawing import page_chart
from wgan_cli.search.folder import SearchFolder
from wgan_cli.search.printing import counted
from wgan_cli.search.study import FAILED, FINISHED, PRUNED, RUNNING, StudyFacts, history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of the chart's height, above and below.
_ROOM = 0.08
_HOPELESS = "ended early: worse than half of the trials before it"


@dataclass(frozen=True)
class SearchSection:
    """A study and its chart, as the template takes them."""

    facts: StudyFacts
    svg: str

    @property
    def keys(self) -> list[str]:
        """The settings searched."""
        return list(dict.fromkeys(key for trial in self.facts.trials for key in trial.params))

    @property
    def counts(self) -> str:
        """How many trials there are, of how many, and how they ended."""
        running = (RUNNING,) if self.facts.count(RUNNING) else ()
        states = (FINISHED, PRUNED, FAILED, *running)
        parts = ", ".join(f"{self.facts.count(state)} {state}" for state in states)
        return f"{len(self.facts.trials)} of {counted(self.facts.asked)}: {parts}."

    @property
    def best(self) -> str:
        """The best trial in a sentence."""
        best = self.facts.best
        if best is None:
            return "None has finished."
        settings = in_words(list(best.params), list(best.params.values()))
        return f"The best is trial {best.number} with {number(best.value)}: {settings}."


def tell_as_trials(runs: Iterable[Run], folder: Path, facts: StudyFacts) -> None:
    """Runs of the search in `folder` take their trials' states and reasons.

    One that was ended early says of itself that it was asked to stop, and one that was killed
    nothing. What has finished stays so, and of a trial under way its run knows more.
    """
    place = SearchFolder(folder)
    trials = {os.path.realpath(place.trial(trial.number)): trial for trial in facts.trials}
    for run in runs:
        trial = trials.get(os.path.realpath(run.folder))
        if trial is not None and trial.state in (PRUNED, FAILED) and not run.finished:
            run.state = trial.state
            run.message = _HOPELESS if trial.state == PRUNED else trial.reason


def section(facts: StudyFacts) -> SearchSection:
    """What the page shows of a study."""
    return SearchSection(facts, history_chart(facts))


def history_chart(facts: StudyFacts) -> str:
    """Trial by trial as an SVG element: finished filled, pruned hollow, failed crosses below.

    What is far worse than most stands at the edge, as a triangle.
    """

    def draw(axes: Axes, strong: str, faint: str) -> None:
        points = history(facts)
        finished = [p.value for p in points if p.state == FINISHED and p.value is not None]
        low, high = _limits(finished or [p.value for p in points if p.value is not None], facts)
        for state, face in ((PRUNED, "none"), (FINISHED, faint)):
            here = [(p.number, p.value) for p in points if p.state == state and p.value is not None]
            near = [(x, y) for x, y in here if low <= y <= high]
            far = [(x, high if y > high else low) for x, y in here if not low <= y <= high]
            for chosen, marker in (
                (near, "o"),
                (far, "^" if facts.direction == "minimize" else "v"),
            ):
                xs, ys = [x for x, _ in chosen], [y for _, y in chosen]
                axes.plot(xs, ys, marker, color=faint, markerfacecolor=face, markersize=4.5)
        failed = [p.number for p in points if p.state == FAILED]
        axes.plot(failed, [low] * len(failed), "x", color=faint, markersize=5)
        best = [(p.number, p.best) for p in points if p.best is not None]
        axes.step([x for x, _ in best], [y for _, y in best], where="post", color=strong)
        margin = _ROOM * (high - low)
        axes.set_ylim(low - margin, high + margin)
        axes.set_title(f"{facts.metric} by trial", fontsize=9.5, loc="left").set_parse_math(False)

    return page_chart(f"search {facts.metric} {len(facts.trials)}", 6.4, 2.7, draw)


def _limits(values: list[float], facts: StudyFacts) -> tuple[float, float]:
    """The values' range, without what is far worse than most."""
    if not values:
        return 0.0, 1.0
    quarters = np.percentile(values, (25, 75))
    reach = 3 * float(quarters[1] - quarters[0]) or abs(values[0]) or 1.0
    low, high = min(values), max(values)
    if facts.direction == "minimize":
        return low, max(low + 1e-9, min(high, float(quarters[1]) + reach))
    return min(high - 1e-9, max(low, float(quarters[0]) - reach)), high

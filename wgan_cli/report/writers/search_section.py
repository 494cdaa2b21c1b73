"""Build the report page's section on a search: trials, best trial, importances of settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from wgan_cli.report.ranking import number
from wgan_cli.report.settings import overrides_text
from wgan_cli.report.writers.drawing import Ink, svg_chart
from wgan_cli.search.study import FAILED, FINISHED, PRUNED, RUNNING, StudySummary, trials_text

# Space above and below the values, as a share of their range.
_MARGIN = 0.08


@dataclass(frozen=True)
class SearchSection:
    """The data of one study for the page's template."""

    study: StudySummary

    @property
    def keys(self) -> list[str]:
        """The keys of the settings that the trials vary."""
        return list(dict.fromkeys(key for trial in self.study.trials for key in trial.params))

    @property
    def counts(self) -> str:
        """A sentence with the number of existing trials, of all trials, and of trials by state."""
        running = (RUNNING,) if self.study.count(RUNNING) else ()
        states = (FINISHED, PRUNED, FAILED, *running)
        parts = ", ".join(f"{self.study.count(state)} {state}" for state in states)
        return f"{len(self.study.trials)} of {trials_text(self.study.total)}: {parts}."

    @property
    def best(self) -> str:
        """A sentence with the best trial's number, value and settings."""
        best = self.study.best
        if best is None:
            return "None has finished."
        settings = overrides_text(best.params)
        return f"The best is trial {best.number} with {number(best.value)}: {settings}."

    @property
    def chart(self) -> str:
        """A chart of values by trial number, as SVG text; a line shows the best value so far.

        Filled circles are finished trials, hollow circles are pruned trials, and crosses at the
        bottom are failed trials. Triangles at the edge are values outside the chart's range.
        """
        name = f"search {self.study.metric} {len(self.study.trials)}"
        box = (0.1, 0.14, 0.88, 0.74)
        return svg_chart(name, (6.4, 2.7), box, partial(_draw, self.study))


def _draw(study: StudySummary, axes: Axes, ink: Ink) -> None:
    low, high = _limits(study)
    triangle = "^" if study.direction == "minimize" else "v"
    for state, face in ((PRUNED, "none"), (FINISHED, ink.text)):
        values = [
            (trial.number, trial.value)
            for trial in study.trials
            if trial.state == state and trial.value is not None
        ]
        inside = [(x, y) for x, y in values if low <= y <= high]
        outside = [(x, high if y > high else low) for x, y in values if not low <= y <= high]
        for drawn, marker in ((inside, "o"), (outside, triangle)):
            xs, ys = [x for x, _ in drawn], [y for _, y in drawn]
            axes.plot(xs, ys, marker, color=ink.text, markerfacecolor=face, markersize=4.5)
    failed = [trial.number for trial in study.trials if trial.state == FAILED]
    axes.plot(failed, [low] * len(failed), "x", color=ink.text, markersize=5)
    best = study.best_so_far
    axes.step(list(best), list(best.values()), where="post", color=ink.series[0])
    margin = _MARGIN * (high - low)
    axes.set_ylim(low - margin, high + margin)
    axes.set_title(f"{study.metric} by trial", fontsize=9.5, loc="left").set_parse_math(False)


def _limits(study: StudySummary) -> tuple[float, float]:
    """Return the lowest and highest value to show, leaving out outliers on the worse side.

    The range covers finished trials, or all trials while none has finished.
    """
    known = [trial for trial in study.trials if trial.value is not None]
    finished = [trial for trial in known if trial.state == FINISHED]
    values = [trial.value for trial in finished or known if trial.value is not None]
    if not values:
        return 0.0, 1.0
    lower, upper = map(float, np.percentile(values, (25, 75)))
    reach = 3 * (upper - lower) or abs(values[0]) or 1.0
    low, high = min(values), max(values)
    # The 1e-9 keeps the range from being empty.
    if study.direction == "minimize":
        return low, max(low + 1e-9, min(high, upper + reach))
    return min(high - 1e-9, max(low, lower - reach)), high

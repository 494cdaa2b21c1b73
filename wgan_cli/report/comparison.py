"""Compare runs: find the settings that differ, rank the runs, and prepare the charts' data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from wgan_cli.report import curves, ranking
from wgan_cli.report.runs import Run, readable
from wgan_cli.report.settings import overrides_text
from wgan_cli.report.varying_settings import find_varying_settings
from wgan_cli.search.study import StudySummary

# If runs differ in one of these settings, their metric values cannot be compared.
_CHANGES_THE_METRIC = {"dataset", "eval_samples"}
_CAUTION = (
    " But numbers for different data sets or sample counts do not compare: read each next to its"
    " real/real value."
)


class Comparison:
    """Ranked runs and everything that a report shows about them.

    The tag `by` ranks the runs. If `by` is None, `ranking.rank_tag` chooses a tag. `studies` are
    the searches whose trials are among the runs. Raises `ConfigError` if no run has the tag `by`.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        by: str | None = None,
        title: str = "Runs compared",
        studies: Sequence[StudySummary] = (),
    ) -> None:
        self.title = readable(title)
        self.studies = studies
        self.by = ranking.rank_tag(runs, by)
        self.varying = find_varying_settings(runs)
        self.groups = ranking.groups_by_rank(runs, self.varying, self.by)
        self.counted = {run.folder for group in self.groups for run in group.counted}
        self.conclusion = ranking.conclusion(self.groups, self.by)
        if len(self.groups) > 1 and _CHANGES_THE_METRIC & set(self.varying.keys):
            self.conclusion += _CAUTION
        self.runs = sorted(runs, key=self._rank_key)

    @property
    def ranked(self) -> bool:
        """True if it is known whether higher or lower values of the ranking tag are better."""
        return ranking.higher_is_better(self.by or "") is not None

    @cached_property
    def panels(self) -> tuple[list[curves.Panel], str]:
        """The learning curves, and a note that says if some are left out; see `curves.panels`."""
        return curves.panels(self.groups, self.by)

    @cached_property
    def heat_maps(self) -> tuple[list[curves.HeatMap], str]:
        """The heat maps, and a note that says why heat maps are missing; see `curves.heat_maps`."""
        if self.by is not None and not self.ranked:
            return [], f"No heat map: it is unknown whether more or less of {self.by} is better."
        return curves.heat_maps(self.groups, self.varying.keys)

    def value(self, run: Run) -> float | None:
        """Return the run's final value of the ranking tag, or None if it has none."""
        return run.final.get(self.by or "")

    def label(self, run: Run) -> str:
        """Return the run's varying settings and its seed as override text."""
        varying = self.varying.label(self.varying.values(run))
        return f"{varying} {overrides_text({'seed': run.seed})}".strip()

    def note(self, run: Run) -> str:
        """Return why a finished run is not included in a mean, or an empty text for other runs."""
        if not run.finished or self.by is None or run.folder in self.counted:
            return ""
        if self.value(run) is None:
            return f"has no {self.by}"
        return "not counted: a newer run has the same settings and seed"

    def heading(self) -> str:
        """Return a sentence with the number of runs in each state and the ranking tag."""
        states = Counter(run.state for run in self.runs)
        counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
        runs = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        if self.by is None:
            return f"{runs} ({counts})."
        if not self.ranked:
            return f"{runs} ({counts}), listed with {self.by}, which does not rank them."
        side = "higher" if ranking.higher_is_better(self.by) else "lower"
        return f"{runs} ({counts}), ranked by {self.by}: {side} is better."

    def _rank_key(self, run: Run) -> tuple[int, float]:
        """Return a sort key: finished runs, the best first, then unfinished, then failed runs."""
        value = self.value(run)
        if run.failed or value is None or not run.finished:
            return 1 + run.failed, 0.0
        if not self.ranked:
            return 0, 0.0
        return 0, -value if ranking.higher_is_better(self.by or "") else value

"""Runs, ranked: the table for a terminal, and the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from wgan_cli.files import refuse_link, write_atomically
from wgan_cli.report import ranking
from wgan_cli.report.curves import HeatMap, Panel, heat_maps, panels
from wgan_cli.report.runs import Run, readable
from wgan_cli.report.settings import in_words
from wgan_cli.report.varied import what_varied
from wgan_cli.report.writers import summary_csv, terminal
from wgan_cli.run_folder import make_folder
from wgan_cli.search.study import StudyFacts

CSV, PAGE, PICTURE = "summary.csv", "report.html", "report.png"
# Settings under which one tag is another number.
_OTHER_NUMBERS = {"dataset", "eval_samples"}
_CAUTION = (
    " But numbers of different data sets or sample counts do not compare: read each beside what"
    " real data score."
)


class Report:
    """What varied between runs and what came of it.

    `by` is the tag that ranks them, by default `wasserstein/exact` where a run has it; `studies`
    are of searches whose trials are among the runs. Raises `ConfigError` where no run has the tag.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        by: str | None = None,
        title: str = "Runs compared",
        studies: Sequence[StudyFacts] = (),
    ) -> None:
        self.title = readable(title)
        self.studies = studies
        self.by = ranking.rank_tag(runs, by)
        self.varied = what_varied(runs)
        self.settings = ranking.settings_by_rank(runs, self.varied, self.by)
        self._counted = {run.folder for setting in self.settings for run in setting.counted}
        self.verdict = ranking.verdict(self.settings, self.by)
        if len(self.settings) > 1 and _OTHER_NUMBERS & set(self.varied.keys):
            self.verdict += _CAUTION
        self.runs = sorted(runs, key=self._place)

    @property
    def ranked(self) -> bool:
        """Whether which direction of `by` is better is known."""
        return ranking.higher_is_better(self.by or "") is not None

    def value(self, run: Run) -> float | None:
        """The number that ranks, as the run's own files have it."""
        return run.final.get(self.by or "")

    def words(self, run: Run) -> str:
        """What varied, and the seed, as it would be typed."""
        varied = self.varied.words(self.varied.values(run))
        return f"{varied} {in_words(['seed'], [run.seed])}".strip()

    def note(self, run: Run) -> str:
        """Why a finished run enters no mean, if it does not."""
        if not run.finished or self.by is None or run.folder in self._counted:
            return ""
        if self.value(run) is None:
            return f"has no {self.by}"
        return "not counted: a newer run has its settings and seed"

    @cached_property
    def panels(self) -> list[Panel]:
        """Curves, a panel a metric."""
        return panels(self)

    @cached_property
    def heat_maps(self) -> tuple[list[HeatMap], str]:
        """Maps of two settings with numbers, and what there is to say about them."""
        if self.by is not None and not self.ranked:
            return [], f"No heat map: whether more or less of {self.by} is better is unknown."
        return heat_maps(self)

    def heading(self) -> str:
        """How many runs in which state, and what ranks them."""
        states = Counter(run.state for run in self.runs)
        counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
        runs = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        if self.by is None:
            return f"{runs} ({counts or 'none'})."
        if not self.ranked:
            return f"{runs} ({counts}), listed with {self.by}, which does not rank them."
        side = "higher" if ranking.higher_is_better(self.by) else "lower"
        return f"{runs} ({counts}), ranked by {self.by}: {side} is better."

    def table(self, width: int | None = None) -> str:
        """The ranked table, its last column folded at `width`; None: a row is one line."""
        return terminal.table(self, width)

    def write(self, folder: Path) -> list[Path]:
        """`summary.csv`, `report.html` and `report.png`, each whole or not at all.

        Raises `DiskError`, and `CheckpointError` where a link would take one elsewhere.
        """
        from wgan_cli.report.writers.drawing import picture
        from wgan_cli.report.writers.page import page

        make_folder(folder)
        contents = {
            CSV: summary_csv.table(self).encode(),
            PAGE: page(self).encode(),
            PICTURE: picture(self),
        }
        for name, content in contents.items():
            refuse_link(folder / name)
            write_atomically(folder / name, content, durable=False)
        return [folder / name for name in contents]

    def _place(self, run: Run) -> tuple[int, float]:
        """Finished runs, the best first, then those under way, the lost last."""
        value = self.value(run)
        if run.lost or value is None or not run.finished:
            return 1 + run.lost, 0.0
        if not self.ranked:
            return 0, 0.0
        return 0, -value if ranking.higher_is_better(self.by or "") else value

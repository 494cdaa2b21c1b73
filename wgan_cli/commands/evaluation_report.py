"""The output of `wgan-eval`: a table, `evaluation.json`, pictures and correlations."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wgan_cli.commands.cli import shown
from wgan_cli.errors import DataError, DiskError
from wgan_cli.evaluation.evaluation import Evaluation, EvaluationResult
from wgan_cli.files import write_atomically
from wgan_cli.guard import inside
from wgan_cli.pictures import curves, save_png
from wgan_cli.progress_bar import ProgressBar
from wgan_cli.run_folder import RunFolder, make_folder

log = logging.getLogger("wgan_cli")
_ESTIMATE = "critic/wasserstein"
# With fewer checkpoints than this, a high correlation may be chance.
_POINTS = 4


class Bar(ProgressBar):
    """A progress bar. Without a terminal, it logs a line per checkpoint and per slow metric."""

    def __init__(self) -> None:
        super().__init__(unit="checkpoint", leave=False, total=1)
        self._started = time.perf_counter()

    def start(self, step: int) -> None:
        """Show the step of the checkpoint that is evaluated now, and start its timer."""
        self._started = time.perf_counter()
        self.set_description_str(f"step {step}")

    def show(self, metric: str, slow: bool) -> None:
        """Show the metric that is computed now; if there is no bar, log a slow metric."""
        self.set_postfix_str(metric)
        if slow and self.disable:
            log.info("measuring %s ...", metric)

    def done(self, path: Path) -> None:
        """Advance the bar by one checkpoint; if there is no bar, log the checkpoint's time."""
        self.update()
        if self.disable:
            log.info("%s: %.1f s", path.name, time.perf_counter() - self._started)


@dataclass(frozen=True)
class Evaluated:
    """One evaluated checkpoint. `estimate` is the critic's estimate in the run's log at `step`."""

    step: int
    name: str
    estimate: float | None
    result: EvaluationResult


class Report:
    """The evaluations of one checkpoint, or of several with `series`. `add` writes the files."""

    def __init__(
        self, folder: RunFolder, generator: str, evaluation: Evaluation, *, series: bool
    ) -> None:
        self.folder = folder
        self.series = series
        self.unwritten = ""
        self.generator = "ema" if generator == "generator_ema" else "raw"
        self.evaluation = evaluation
        self.rows: list[Evaluated] = []
        self._written: list[Path] = []
        # Two file names, so that the results of one checkpoint do not replace those of a series.
        self._name = "evaluation_curves.json" if series else "evaluation.json"
        recorded = {int(p["step"]): p[_ESTIMATE] for p in folder.read_metrics() if _ESTIMATE in p}
        self._recorded = {step: value for step, value in recorded.items() if math.isfinite(value)}

    @property
    def exit_code(self) -> int:
        """The exit code: 7 if a file could not be written, 3 if a metric failed, else 0."""
        if self.unwritten:
            return DiskError.exit_code
        return DataError.exit_code if any(row.result.failures for row in self.rows) else 0

    def add(self, step: int, path: Path, result: EvaluationResult) -> None:
        """Add the result of one checkpoint and write the files."""
        # Use the estimate only if it was logged at this step, because the critic changes at every
        # step.
        self.rows.append(Evaluated(step, path.name, self._recorded.get(step), result))
        try:
            self._write(result.pictures)
        except DiskError as error:
            self.unwritten = str(error)

    def correlations(self) -> dict[str, dict[str, float]]:
        """Return each metric's Spearman and Pearson correlation with the critic's estimate.

        The correlations are over the checkpoints. A metric is left out if fewer than four
        checkpoints have both the metric and the estimate, or if one of the two is constant.
        """
        coefficients = {}
        for tag in self._tags():
            pairs = [
                (row.estimate, row.result.values[tag])
                for row in self.rows
                if row.estimate is not None and tag in row.result.values
            ]
            estimates, values = zip(*pairs, strict=True) if pairs else ((), ())
            if len(pairs) >= _POINTS and len(set(estimates)) > 1 and len(set(values)) > 1:
                # Importing scipy.stats takes half a second, and few evaluations have correlations.
                from scipy.stats import pearsonr, spearmanr

                coefficients[tag] = {
                    "spearman": float(spearmanr(estimates, values).statistic),
                    "pearson": float(pearsonr(estimates, values).statistic),
                    "checkpoints": len(pairs),
                }
        return coefficients

    def table(self) -> str:
        """Return the results as text for the terminal."""
        reference = self.evaluation.reference
        counts, accuracy = reference.counts, reference.classifier_accuracy
        features = (
            f"; the classifier is right on {accuracy:.1%} of held-out data" if accuracy else ""
        )
        head = (
            f"{shown(self.folder.path)}, {self.generator} generator, against held-out"
            f" {reference.dataset.name}: {counts.eval_samples} samples for"
            f" distances, {counts.feature_samples} for features{features}."
        )
        body = self._series_table() if self.series else self._one_table()
        failures = {tag: why for row in self.rows for tag, why in row.result.failures.items()}
        notes = [f"{tag}: no number, because {why}." for tag, why in failures.items()]
        written = [] if self.unwritten else [f"Written: {shown(path)}" for path in self._written]
        return "\n".join([head, "", *body, "", *notes, *written])

    def _one_table(self) -> list[str]:
        (row,) = self.rows
        result = row.result
        width = max([len(tag) for tag in result.values] + [20])
        lines = [f"{f'step {row.step}':<{width}}  {'value':>10}  {'real/real':>10}"]
        for tag, value in result.values.items():
            floor = number(result.floors[tag]) if tag in result.floors else ""
            lines.append(f"{tag:<{width}}  {number(value):>10}  {floor:>10}".rstrip())
        costs = sorted(result.seconds.items(), key=lambda cost: -cost[1])
        slowest = ", ".join(f"{metric} {seconds:.1f}" for metric, seconds in costs[:4])
        return [*lines, "", f"{sum(result.seconds.values()):.1f} s in all: {slowest}, ..."]

    def _series_table(self) -> list[str]:
        tags, related = self._tags(), self.correlations()
        columns = [["step", _ESTIMATE, *tags]]
        for row in self.rows:
            values = (row.estimate, *(row.result.values.get(tag) for tag in tags))
            columns.append([str(row.step), *map(number, values)])
        floors = self.rows[-1].result.floors
        columns.append(["real/real", "", *(number(floors.get(tag)) for tag in tags)])
        for name in ("spearman", "pearson"):
            coefficients = (related.get(tag, {}).get(name) for tag in tags)
            columns.append([name, "", *map(number, coefficients)])
        # Use a line for each metric and a column for each step: metrics are many and have long
        # names.
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip()
            for first, *rest in zip(*columns, strict=True)
        ]
        logged = sum(row.estimate is not None for row in self.rows)
        if related:
            return [*lines, "", f"spearman, pearson: with {_ESTIMATE}, over {logged} checkpoints."]
        return [
            *lines,
            "",
            f"No correlation with {_ESTIMATE}: it takes {_POINTS} checkpoints or more, at"
            f" steps where the run logged it and with differing numbers; there are {logged}."
            " keep_every=N keeps every N-th step's.",
        ]

    def _tags(self) -> list[str]:
        return list(dict.fromkeys(tag for row in self.rows for tag in row.result.values))

    def _write(self, pictures: Mapping[str, np.ndarray]) -> None:
        """Write the numbers of all checkpoints; `pictures` maps tags to the last one's pictures."""
        numbers = inside(self.folder.path, self._name)
        text = json.dumps(self._content(), indent=2, allow_nan=False) + "\n"
        write_atomically(numbers, text.encode(), durable=False)
        files = {"curves.png": self._curves()} if self.series else {}
        files |= {tag.replace("/", "_") + ".png": picture for tag, picture in pictures.items()}
        paths = {name: inside(self.folder.path, "evaluation", name) for name in files}
        if files:
            make_folder(self.folder.path / "evaluation")
        for name, picture in files.items():
            save_png(paths[name], picture)
        self._written = [numbers, *paths.values()]

    def _curves(self) -> np.ndarray:
        panels = {}
        for tag in self._tags():
            points = [
                (row.step, row.result.values[tag], row.result.floors.get(tag))
                for row in self.rows
                if tag in row.result.values
            ]
            steps, values, floors = zip(*points, strict=True)
            panels[tag] = (steps, values, None if None in floors else floors)
        return curves((list(self._recorded), list(self._recorded.values())), panels)

    def _content(self) -> dict[str, Any]:
        reference = self.evaluation.reference
        counts = reference.counts
        return {
            "dataset": reference.dataset.name,
            "generator": self.generator,
            "seed": self.evaluation.seed,
            "samples": {"distances": counts.eval_samples, "features": counts.feature_samples},
            "classifier_accuracy": reference.classifier_accuracy,
            "torch": str(torch.__version__),
            "checkpoints": [
                {
                    "step": row.step,
                    "checkpoint": row.name,
                    _ESTIMATE: row.estimate,
                    "values": row.result.values,
                    "real_real": row.result.floors,
                    "seconds": {tag: round(cost, 3) for tag, cost in row.result.seconds.items()},
                    "refused": row.result.failures,
                }
                for row in self.rows
            ],
            "correlation_with_estimate": self.correlations(),
        }


def number(value: float | None) -> str:
    """Return the value with four significant digits, or a dash for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"

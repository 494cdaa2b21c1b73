"""The output of `wgan-eval`: a table, `evaluation.json`, pictures and correlations."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from scipy.stats import pearsonr, spearmanr
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from wgan_cli.charts import curves
from wgan_cli.commands.paths import shown
from wgan_cli.errors import DataError, DiskError
from wgan_cli.evaluation.evaluation import Evaluation, EvaluationResult
from wgan_cli.pictures import save_png
from wgan_cli.run_folder import RunFolder, make_folder

log = logging.getLogger("wgan_cli")
_ESTIMATE = "critic/wasserstein"
# Fewer points may lie on a line or in order by chance.
_POINTS = 4


class Bar:
    """Progress: a bar on a terminal, else a line for each checkpoint and each slow metric."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] = tqdm(
            unit="checkpoint", disable=not sys.stderr.isatty(), leave=False, total=1
        )
        self._started = time.perf_counter()

    def expect(self, checkpoints: int) -> None:
        """Set the number of checkpoints."""
        self._bar.reset(checkpoints)

    def start(self, step: int) -> None:
        """Begin a checkpoint."""
        self._started = time.perf_counter()
        self._bar.set_description_str(f"step {step}")

    def show(self, metric: str, slow: bool) -> None:
        """Begin a metric."""
        self._bar.set_postfix_str(metric)
        if slow and self._bar.disable:
            log.info("measuring %s ...", metric)

    def done(self, path: Path) -> None:
        """End a checkpoint."""
        self._bar.update()
        if self._bar.disable:
            log.info("%s: %.1f s", path.name, time.perf_counter() - self._started)

    def warn(self, message: str) -> None:
        """Write a message above the bar."""
        log.warning("%s", message)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


@contextmanager
def progress() -> Iterator[Bar]:
    """Show a bar on stderr, and the package's messages above it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    bar = Bar()
    try:
        with logging_redirect_tqdm([log]):
            yield bar
    finally:
        bar.close()
        log.removeHandler(handler)


class Report:
    """The evaluations of one checkpoint, or of a `series`; all files are written at each `add`."""

    def __init__(
        self, folder: RunFolder, generator: str, evaluation: Evaluation, *, series: bool
    ) -> None:
        self.folder = folder
        self.series = series
        self.unwritten = ""
        self.generator = "ema" if generator == "generator_ema" else "raw"
        self.evaluation = evaluation
        self.steps: list[int] = []
        self.names: list[str] = []
        self.results: list[EvaluationResult] = []
        self.estimates: list[float | None] = []
        recorded = {int(p["step"]): p[_ESTIMATE] for p in folder.read_metrics() if _ESTIMATE in p}
        self._recorded = {step: value for step, value in recorded.items() if math.isfinite(value)}

    @property
    def exit_code(self) -> int:
        """7 if the files could not be written, 3 if a metric could not be computed, else 0."""
        if self.unwritten:
            return DiskError.exit_code
        return DataError.exit_code if any(found.failures for found in self.results) else 0

    def add(self, step: int, path: Path, result: EvaluationResult) -> None:
        """Add the result of one checkpoint and write the files."""
        self.steps.append(step)
        self.names.append(path.name)
        self.results.append(result)
        # Only the estimate of this very step: another log point would be of another critic.
        self.estimates.append(self._recorded.get(step))
        try:
            self._write()
        except DiskError as error:
            self.unwritten = str(error)

    def correlations(self) -> dict[str, dict[str, float]]:
        """Each metric's Spearman and Pearson correlation with the critic's estimate.

        They are over the checkpoints; a metric of fewer than four, or that never changes, has none.
        """
        coefficients = {}
        for tag in self._tags():
            pairs = [
                (estimate, result.values[tag])
                for estimate, result in zip(self.estimates, self.results, strict=True)
                if estimate is not None and tag in result.values
            ]
            estimates, values = zip(*pairs, strict=True) if pairs else ((), ())
            if len(pairs) >= _POINTS and len(set(estimates)) > 1 and len(set(values)) > 1:
                coefficients[tag] = {
                    "spearman": float(spearmanr(estimates, values).statistic),
                    "pearson": float(pearsonr(estimates, values).statistic),
                    "checkpoints": len(pairs),
                }
        return coefficients

    def table(self) -> str:
        """The text for the terminal."""
        counts = self.evaluation.reference.counts
        accuracy = self.evaluation.reference.classifier_accuracy
        features = (
            f"; the classifier is right on {accuracy:.1%} of held-out data" if accuracy else ""
        )
        head = (
            f"{shown(self.folder.path)}, {self.generator} generator, against held-out"
            f" {self.evaluation.reference.dataset.name}: {counts.eval_samples} samples for"
            f" distances, {counts.feature_samples} for features{features}."
        )
        body = self._feature_samples() if self.series else self._one()
        refused = {
            metric: reason for found in self.results for metric, reason in found.failures.items()
        }
        notes = [f"{metric}: no number, because {why}." for metric, why in refused.items()]
        written = [] if self.unwritten else [f"Written: {path}" for path in self._files()]
        return "\n".join([head, "", *body, "", *notes, *written])

    def _one(self) -> list[str]:
        (found,) = self.results
        width = max([len(tag) for tag in found.values] + [20])
        lines = [f"{'step ' + str(self.steps[0]):<{width}}  {'value':>10}  {'real/real':>10}"]
        for tag, value in found.values.items():
            floor = number(found.floors[tag]) if tag in found.floors else ""
            lines.append(f"{tag:<{width}}  {number(value):>10}  {floor:>10}".rstrip())
        costs = sorted(found.seconds.items(), key=lambda cost: -cost[1])
        slowest = ", ".join(f"{metric} {seconds:.1f}" for metric, seconds in costs[:4])
        return [*lines, "", f"{sum(found.seconds.values()):.1f} s in all: {slowest}, ..."]

    def _feature_samples(self) -> list[str]:
        tags = self._tags()
        rows = [["step", _ESTIMATE, *tags]]
        for step, estimate, found in zip(self.steps, self.estimates, self.results, strict=True):
            values = [found.values.get(tag) for tag in tags]
            rows.append([str(step), *(number(value) for value in (estimate, *values))])
        floors = [self.results[-1].floors.get(tag) for tag in tags]
        rows.append(["real/real", "", *(number(floor) for floor in floors)])
        related = self.correlations()
        for name in ("spearman", "pearson"):
            coefficients = [related.get(tag, {}).get(name) for tag in tags]
            rows.append([name, "", *(number(value) for value in coefficients)])
        # One row for each metric: there are many, with long names; steps are few short numbers.
        columns = list(zip(*rows, strict=True))
        widths = [max(len(cell) for cell in row) for row in rows]
        return [
            "  ".join(
                f"{cell:<{width}}" if index == 0 else f"{cell:>{width}}"
                for index, (cell, width) in enumerate(zip(column, widths, strict=True))
            ).rstrip()
            for column in columns
        ] + self._remark(related)

    def _remark(self, related: dict[str, Any]) -> list[str]:
        logged = sum(estimate is not None for estimate in self.estimates)
        if related:
            return ["", f"spearman, pearson: with critic/wasserstein, over {logged} checkpoints."]
        return [
            "",
            f"No correlation with critic/wasserstein: it takes {_POINTS} checkpoints or more, at"
            f" steps where the run logged it and with differing numbers; there are {logged}."
            " keep_every=N keeps every N-th step's.",
        ]

    @property
    def _name(self) -> str:
        """The JSON file: two names, so that one checkpoint's results do not replace the curves."""
        return "evaluation_curves.json" if self.series else "evaluation.json"

    def _tags(self) -> list[str]:
        return list(dict.fromkeys(tag for found in self.results for tag in found.values))

    def _files(self) -> list[Path]:
        folder = shown(self.folder.path)
        files = [folder / self._name]
        if self.series:
            files.append(folder / "evaluation" / "curves.png")
        pictures = self.results[-1].pictures
        return [*files, *(folder / "evaluation" / _png(tag) for tag in pictures)]

    def _write(self) -> None:
        self.folder.write_evaluation(self._name, self._content())
        folder = self.folder.path / "evaluation"
        pictures = {_png(tag): picture for tag, picture in self.results[-1].pictures.items()}
        if self.series:
            pictures["curves.png"] = self._curves()
        if pictures:
            make_folder(folder)
        for name, picture in pictures.items():
            save_png(folder / name, picture)

    def _curves(self) -> Any:
        panels = {}
        for tag in self._tags():
            points = [
                (step, found.values[tag], found.floors.get(tag))
                for step, found in zip(self.steps, self.results, strict=True)
                if tag in found.values
            ]
            steps, values, floors = zip(*points, strict=True)
            panels[tag] = (steps, values, None if None in floors else floors)
        return curves((list(self._recorded), list(self._recorded.values())), panels)

    def _content(self) -> dict[str, Any]:
        counts = self.evaluation.reference.counts
        return {
            "dataset": self.evaluation.reference.dataset.name,
            "generator": self.generator,
            "seed": self.evaluation.seed,
            "samples": {"distances": counts.eval_samples, "features": counts.feature_samples},
            "classifier_accuracy": self.evaluation.reference.classifier_accuracy,
            "torch": str(torch.__version__),
            "checkpoints": [
                {
                    "step": step,
                    "checkpoint": name,
                    _ESTIMATE: estimate,
                    "values": found.values,
                    "real_real": found.floors,
                    "seconds": {tag: round(cost, 3) for tag, cost in found.seconds.items()},
                    "refused": found.failures,
                }
                for step, name, estimate, found in zip(
                    self.steps, self.names, self.estimates, self.results, strict=True
                )
            ],
            "correlation_with_estimate": self.correlations(),
        }


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}"


def _png(tag: str) -> str:
    return tag.replace("/", "_") + ".png"

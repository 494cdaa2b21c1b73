"""A search on the report's page: its numbers are the study's."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from wgan_cli.commands.report import run
from wgan_cli.search.folder import SearchFolder, open_study
from wgan_cli.search.loop import ClaimedTrial, claim_trial
from wgan_cli.search.space import parse_search
from wgan_cli.search.study import FINISHED, StudySummary, read_study

pytestmark = pytest.mark.charts

HOSTILE = "<script>alert(1)</script>"


class Cells(HTMLParser):
    """The rows of every table, as text, and all of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._inside:
            self.rows[-1][-1] += data.strip()


@pytest.fixture
def searched(tmp_path: Path) -> SearchFolder:
    """Fifteen trials: one failed, one pruned, one far off, one under way; a run folder each."""
    node = {
        "space": {"clip": {"low": 0.01, "high": 0.1}, "n_critic": {"low": 1, "high": 5}},
        "trials": 20,
    }
    folder = SearchFolder(tmp_path / "search")
    search = parse_search(node, Path("x.yaml"))
    folder.begin(search, "x")
    study = open_study(folder)
    for number in range(15):
        found = claim_trial(folder, study, search)
        assert isinstance(found, ClaimedTrial)
        value = 100.0 if number == 5 else 3 + float(found.values["clip"] or 0)
        run_folder = folder.trial(number)
        status = {"state": "finished", "exit_code": 0, "final": {"wasserstein/exact": value}}
        (run_folder / "status.json").write_text(json.dumps(status))
        if number == 3:
            found.trial.set_user_attr("reason", HOSTILE)
            study.tell(found.trial, state=TrialState.FAIL)
        elif number == 4:
            found.trial.report(value, 10)
            study.tell(found.trial, state=TrialState.PRUNED)
        elif number != 14:
            study.tell(found.trial, value)
    return folder


def facts_of(folder: SearchFolder) -> StudySummary:
    facts = read_study(folder.path)
    assert facts is not None
    return facts


def page_of(folder: SearchFolder, *words: str) -> str:
    assert run([str(folder.path), *words]) == 0
    return (folder.path / "report.html").read_text()


def test_the_page_shows_every_trial_with_the_studys_numbers(searched: SearchFolder) -> None:
    page, facts = page_of(searched), facts_of(searched)
    parser = Cells()
    parser.feed(page)
    head = next(row for row in parser.rows if row[:2] == ["trial", "state"])
    assert head == ["trial", "state", "wasserstein/exact", "clip", "n_critic", "reason"]
    rows = parser.rows[parser.rows.index(head) + 1 :][: len(facts.trials)]
    for row, trial in zip(rows, facts.trials, strict=True):
        assert row[:2] == [str(trial.number), trial.state]
        assert row[2] == ("–" if trial.value is None else f"{trial.value:.4g}")
        assert [float(cell) for cell in row[3:5]] == list(trial.params.values())
        assert row[5] == trial.reason
    text = " ".join(parser.text)
    assert "15 of 20 trials: 12 finished, 1 pruned, 1 failed, 1 running." in text
    assert facts.best is not None
    assert f"The best is trial {facts.best.number} with {facts.best.value:.4g}" in text
    for key, share in facts.importances.items():
        assert [key, f"{100 * share:.0f}%", ""] in parser.rows


def test_a_run_of_a_search_has_its_trials_state(searched: SearchFolder) -> None:
    said = {"message": "asked to stop", "final": {"wasserstein/exact": 5.0}}
    for number, state in {3: "running", 4: "preempted", 5: "preempted", 14: "preempted"}.items():
        status = json.dumps({"state": state, **said})
        (searched.trial(number) / "status.json").write_text(status)
    assert run([str(searched.path)]) == 0
    with (searched.path / "summary.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    shown = {number: rows[f"trials/{number:04d}"] for number in (2, 3, 4, 14)}
    assert [row["state"] for row in shown.values()] == ["finished", "failed", "pruned", "preempted"]
    assert shown[3]["message"] == HOSTILE
    assert shown[4]["message"] == "ended early: worse than half of the trials before it"
    assert shown[14]["message"] == "asked to stop"


def test_a_trials_reason_is_escaped(searched: SearchFolder) -> None:
    page = page_of(searched)
    assert HOSTILE not in page
    assert "&lt;script&gt;alert" in page


def test_an_outlier_does_not_flatten_the_chart(searched: SearchFolder) -> None:
    page = page_of(searched)
    chart = page[page.index("<h2>Search</h2>") :].partition("</svg>")[0]
    ticks = [float(number) for number in re.findall(r">([\d.]+)</text>", chart)]
    # Trials 0 to 14 on the x axis, values near 3 on the y axis; the outlier has no tick.
    assert max(ticks) <= 20
    assert any(3 < tick < 3.2 for tick in ticks)


def test_a_study_without_finished_trials_has_a_page(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "search")
    search = parse_search({"space": {"clip": {"low": 0.01, "high": 0.1}}}, Path("x.yaml"))
    folder.begin(search, "x")
    assert isinstance(claim_trial(folder, open_study(folder), search), ClaimedTrial)
    (folder.trial(0) / "status.json").write_text(json.dumps({"state": "running"}))
    page = page_of(folder)
    assert "None has finished." in page
    assert facts_of(folder).count(FINISHED) == 0


def test_without_a_readable_study_the_page_shows_the_runs(searched: SearchFolder) -> None:
    searched.journal.write_text("{\n{\n")
    assert "<h2>Search</h2>" not in page_of(searched)

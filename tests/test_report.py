"""`wgan-report`: varying settings, ranks, means and intervals, against independent references."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml
from conftest import TINY, Command, composed, metrics_of, status_of
from PIL import Image

from wgan_cli.commands.report import run as report_command
from wgan_cli.commands.train import run as train
from wgan_cli.config import as_dict, fill, validate
from wgan_cli.errors import ConfigError
from wgan_cli.locks import locked
from wgan_cli.report import Report, read_runs
from wgan_cli.report.ranking import higher_is_better

pytestmark = pytest.mark.charts

EXACT = "wasserstein/exact"


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    """The default run's config.yaml."""
    return as_dict(fill(validate(composed([])))[0])


def changed(config: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """The config with these words in it, a group's option by its name alone."""
    config = json.loads(json.dumps(config))
    for word in words:
        key, _, value = word.partition("=")
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node[part]
        if isinstance(node.get(last), dict) and "name" in node[last]:
            node, last = node[last], "name"
        node[last] = float(value) if value[:1].isdigit() and "." in value else yaml.safe_load(value)
    return config


def write(
    folder: Path,
    config: dict[str, Any] | None = None,
    words: list[str] | None = None,
    value: float | None = None,
    state: str = "finished",
    **status: Any,
) -> Path:
    """A run folder as a run leaves it, by hand."""
    folder.mkdir(parents=True)
    words = words or []
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(changed(config, words)))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(words))
    final = {} if value is None else {EXACT: value, f"{EXACT}_real_real": 3.0, f"{EXACT}_n": 179}
    facts = {"state": state, "exit_code": 0, "step": 20, "steps": 20, "message": "", "final": final}
    (folder / "status.json").write_text(json.dumps({**facts, "seconds": 1.5, **status}))
    points = [] if value is None else [{"step": 10, EXACT: value + 1}, {"step": 20, **final}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return folder


def grid(
    folder: Path, config: dict[str, Any], values: dict[str, list[float]], **status: Any
) -> Report:
    """A run a value: keys are words, values go by seed."""
    for number, (words, seed, value) in enumerate(
        (words, seed, value) for words, of in values.items() for seed, value in enumerate(of)
    ):
        typed = [*words.split(), f"seed={seed}"]
        write(folder / str(number), config, typed, value, **status)
    return Report(read_runs([folder]))


class Tables(HTMLParser):
    """Every table's rows of cell texts, by the table's id, and all other text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._rows: list[list[str]] | None = None
        self._cell: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = self.tables[dict(attrs)["id"] or ""] = []
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._rows is not None and self._cell is not None:
            self._rows[-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._cell is not None:
            self._cell.append(data)

    def column(self, table: str, head: str) -> list[str]:
        rows = self.tables[table]
        return [row[rows[0].index(head)] for row in rows[1:]]


def page_of(report: Report, folder: Path) -> Tables:
    report.write(folder)
    return Tables((folder / "report.html").read_text())


VALUES = {
    "loss=hinge clip=0.01": [3.31, 3.35, 3.30],
    "loss=hinge clip=0.03": [3.20, 3.24, 3.29],
    "loss=wasserstein clip=0.01": [3.52, 3.49],
    "loss=wasserstein clip=0.03": [3.22, 3.21, 3.25],
}


def test_a_run_whose_process_is_gone_is_cut_off(tmp_path: Path, default: dict[str, Any]) -> None:
    places = [write(tmp_path / f"{n}", default, [f"seed={n}"], 3.0, "running") for n in range(3)]
    (places[0] / ".lock").touch()
    live = locked(places[1] / ".lock")
    assert live is not None
    with live:
        runs = read_runs([tmp_path])
        # Reading leaves the lock alone: its owner keeps it, and a later run can take it.
        assert locked(places[1] / ".lock") is None
    assert [run.state for run in runs] == ["cut off", "running", "running"]
    assert runs[0].message == f"its process is gone; resume={places[0]} continues it"
    assert [run.message for run in runs[1:]] == ["", ""]
    assert not (places[2] / ".lock").exists()
    assert [setting.n for setting in Report(runs).groups] == [0]


def test_a_link_to_a_run_is_that_run_once(tmp_path: Path, default: dict[str, Any]) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    write(inside / "0", default, ["seed=0"], 3.0)
    write(outside / "1", default, ["seed=1"], 3.1)
    write(outside / "2", default, ["seed=2"], 3.2)
    (inside / "again").symlink_to(inside / "0")
    (inside / "one").symlink_to(outside / "1")
    (inside / "around").symlink_to(inside)
    (inside / "0" / "up").symlink_to(inside)
    (inside / "all").symlink_to(outside)
    (inside / "nowhere").symlink_to(tmp_path / "gone")
    (inside / "itself").symlink_to(inside / "itself")
    assert sorted(run.seed for run in read_runs([inside])) == [0, 1]
    assert sorted(run.seed for run in read_runs([inside, inside / "all"])) == [0, 1, 2]


def test_means_deviations_and_intervals_match_numpy_and_scipy(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    report = grid(tmp_path, default, VALUES)
    order = sorted(VALUES, key=lambda words: float(np.mean(VALUES[words])))
    assert [setting.label for setting in report.groups] == order
    for setting in report.groups:
        numbers = VALUES[setting.label]
        assert setting.n == len(numbers)
        assert setting.mean == pytest.approx(np.mean(numbers), rel=1e-14)
        assert setting.sd == pytest.approx(np.std(numbers, ddof=1), rel=1e-12)
        assert setting.floor == 3.0
    rows = page_of(report, tmp_path / "out").tables["settings"]
    for row, words in zip(rows[1:], order, strict=True):
        cells = dict(zip(rows[0], row, strict=True))
        numbers = VALUES[words]
        assert cells["mean"] == f"{np.mean(numbers):.4g}"
        assert cells["± sd"] == f"{np.std(numbers, ddof=1):.4g}"
        assert cells["n"] == str(len(numbers))
        assert f"loss={cells['loss']} clip={cells['clip']}" == words
        if words == order[0]:
            assert "best" in cells["rank"]
            continue
        welch = scipy.stats.ttest_ind(numbers, VALUES[order[0]], equal_var=False)
        low, high = welch.confidence_interval(0.95)
        assert cells["behind"] == f"{np.mean(numbers) - np.mean(VALUES[order[0]]):.4g}"
        assert cells["95% interval"].startswith(f"{low:.4g} to {high:.4g}")
        assert ("includes 0" in cells["95% interval"]) == (welch.pvalue > 0.05)


@pytest.mark.parametrize(
    ("first", "second"),
    [([3.0, 3.1, 3.2], [3.05, 3.2, 3.3]), ([3.0, 3.01, 3.02], [3.2, 3.3]), ([1, 1.1], [2, 2.1])],
)
@pytest.mark.parametrize("tag", [EXACT, "metrics/precision_pixel_179"])
def test_the_conclusion_matches_scipys_welch_test(
    first: list[float], second: list[float], tag: str, tmp_path: Path, default: dict[str, Any]
) -> None:
    for words, numbers in (("clip=0.01", first), ("clip=0.03", second)):
        for seed, value in enumerate(numbers):
            typed = [words, f"seed={seed}"]
            write(tmp_path / f"{words}-{seed}", default, typed, final={tag: float(value)})
    report = Report(read_runs([tmp_path]), by=tag)
    p = scipy.stats.ttest_ind(first, second, equal_var=False).pvalue
    best = "clip=0.01" if tag == EXACT else "clip=0.03"
    assert report.groups[0].label == best
    assert report.conclusion.startswith(f"Best: {best}, {np.mean(second) - np.mean(first):.4g} ")
    assert ("lower" if tag == EXACT else "higher") in report.conclusion
    assert ("more than the spread over seeds" in report.conclusion) == (p < 0.05)
    assert ("may be chance" in report.conclusion) == (p >= 0.05)


def test_one_seed_allows_no_conclusion(tmp_path: Path, default: dict[str, Any]) -> None:
    report = grid(tmp_path, default, {"clip=0.01": [3.0, 3.1], "clip=0.03": [3.5]})
    assert "cannot be said" in report.conclusion
    assert "clip=0.03 has one seed" in report.conclusion
    assert report.groups[1].sd is None
    assert page_of(report, tmp_path).column("settings", "± sd")[1] == "–"


def test_without_spread_any_difference_is_significant(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    report = grid(tmp_path, default, {"clip=0.01": [3.0, 3.0], "clip=0.03": [3.1, 3.1]})
    assert "more than the spread over seeds" in report.conclusion


def test_equal_numbers_have_no_winner(tmp_path: Path, default: dict[str, Any]) -> None:
    report = grid(tmp_path, default, {"clip=0.01": [3.0, 3.0], "clip=0.03": [3.0, 3.0]})
    assert "score the same" in report.conclusion


def test_only_finished_runs_enter_a_mean(tmp_path: Path, default: dict[str, Any]) -> None:
    others = {"running": 1.0, "diverged": 1.1, "failed": 1.2, "interrupted": 1.3, "preempted": 1.4}
    for number, (state, value) in enumerate(others.items()):
        words = ["clip=0.01", f"seed={number + 2}"]
        told = {"message": "critic/loss became NaN.", "step": 12}
        write(tmp_path / state, default, words, value, state, **told)
    for seed, value in enumerate((3.0, 4.0)):
        write(tmp_path / f"ok{seed}", default, ["clip=0.01", f"seed={seed}"], value)
    write(tmp_path / "nan", default, ["clip=0.01", "seed=9"], final={EXACT: math.nan})
    write(tmp_path / "bad", default, ["clip=0.3", "seed=0"], None, "diverged", message="NaN.")
    report = Report(read_runs([tmp_path]))
    best, worst = report.groups
    assert (best.label, best.mean, best.n) == ("clip=0.01", 3.5, 2)
    assert (worst.label, worst.mean, worst.n) == ("clip=0.3", None, 0)
    rows = [line.split() for line in report.table().splitlines()]
    shown = {row[0]: " ".join(row) for row in rows if row and row[0] in {*others, "nan", "bad"}}
    assert shown["running"] == (
        "running running 1 clip=0.01 seed=2 at step 12 of 20 critic/loss became NaN."
    )
    assert shown["nan"] == f"nan finished – clip=0.01 seed=9 has no {EXACT}"
    names = page_of(report, tmp_path).column("runs", "run")
    assert set(names[-3:]) == {"diverged", "failed", "bad"}
    assert names[:2] == ["ok0", "ok1"]


def test_a_seed_counts_once(tmp_path: Path, default: dict[str, Any]) -> None:
    for name, seed, value, ended in (("a", 0, 3.0, "1"), ("b", 0, 5.0, "2"), ("c", 1, 4.0, "0")):
        write(tmp_path / name, default, [f"seed={seed}"], value, ended=ended)
    report = Report(read_runs([tmp_path]))
    (setting,) = report.groups
    assert (setting.numbers, setting.n) == ((5.0, 4.0), 2)
    (row,) = [line for line in report.table().splitlines() if line.startswith("a ")]
    assert "not counted" in row


def test_varying_settings_exclude_paths_cadences_and_dependent_settings(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    words = [
        ["optimizer=adam", "optimizer.betas=[0.5,0.9]", "threads=1"],
        ["optimizer=rmsprop", "log_every=10", "dataset.root=here", "threads=1"],
        ["optimizer=rmsprop", "metrics=[wasserstein/exact]", "seed=3", "threads=1"],
        ["optimizer=adam", "optimizer.betas=[0.0,0.9]", "steps=20", "threads=2"],
    ]
    for number, typed in enumerate(words):
        config = json.loads(json.dumps(default))
        config["threads"] = number
        if number != 1:
            # A setting that only one option has does not count as differing.
            config["optimizer"]["alpha"] = 0.99
        config["dataset"]["recommended"]["steps"] = number
        if "steps=20" in typed:
            config["decay"]["steps"] = 20
        folder = write(tmp_path / str(number), config, [], 3.0 + number)
        adapted = changed(config, typed)
        (folder / "config.yaml").write_text(yaml.safe_dump(adapted))
        (folder / "overrides.yaml").write_text(yaml.safe_dump(typed))
    report = Report(read_runs([tmp_path]))
    assert report.varying.keys == ("optimizer", "optimizer.betas", "threads", "steps")
    assert report.varying.dependent == ("decay.steps",)


def test_an_untyped_thread_count_does_not_split_seeds(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    for seed, threads in enumerate((1, 2)):
        config = {**default, "threads": threads, "device": f"cuda:{seed}"}
        write(tmp_path / str(seed), config, [f"seed={seed}"], 3.0)
    (setting,) = Report(read_runs([tmp_path])).groups
    assert setting.n == 2


def test_a_job_without_a_config_is_shown_by_its_overrides(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    write(tmp_path / "0", default, ["loss=hinge", "clip=0.01"], 3.0)
    write(tmp_path / "1", default, ["loss=wasserstein", "clip=0.01"], 3.1)
    message = (
        "clip=1e-4 has no effect. " + "A long reason that no line of eighty has room for. " * 3
    )
    words = ["loss=wasserstein", "clip=1e-4"]
    write(tmp_path / "2", None, words, None, "failed", message=message)
    report = Report(read_runs([tmp_path]))
    assert report.varying.keys == ("loss", "clip")
    (row,) = [line for line in report.table().splitlines() if line.split()[:1] == ["2"]]
    assert "failed" in row
    assert "loss=wasserstein clip=0.0001" in row
    assert message.strip() in row
    for width in (80, 40):
        folded = report.table(width).splitlines()
        assert max(map(len, folded)) <= width
        assert " ".join(message.split()) in " ".join(" ".join(folded).split())
        assert folded[-1].strip()


def test_with_many_varying_settings_rows_name_the_uncommon_ones(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    keys = ("clip", "latent_dim", "n_critic", "batch_size", "ema", "optimizer.lr", "steps")
    for number, key in enumerate(keys):
        words = [f"{name}={0.5 if name == key else 0.25}" for name in keys]
        write(tmp_path / str(number), default, words, 3.0 + number)
    report = Report(read_runs([tmp_path]))
    assert set(report.varying.keys) == set(keys)
    assert [setting.label for setting in report.groups] == [f"{key}=0.5" for key in keys]


@pytest.mark.exhaustive
def test_the_reports_numbers_are_those_of_the_runs_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real sweep of the command: status.json, table, CSV and page agree."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wgan-train"])
    words = ["-m", *TINY, "hydra.sweep.dir=sweep", "loss=wasserstein,hinge", "seed=0,1"]
    assert train([*words, "log_every=1"]) == 0
    assert report_command(["sweep"]) == 0
    page = Tables((tmp_path / "sweep" / "report.html").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "sweep" / "summary.csv").read_text())))
    assert len(rows) == 4
    for row in rows:
        folder = tmp_path / "sweep" / row["run"]
        status = status_of(folder)
        numbers = {tag: float(row[tag]) for tag in status["final"]}
        assert numbers == status["final"]
        assert numbers[EXACT] == metrics_of(folder)[-1][EXACT]
        assert row["state"] == status["state"] == "finished"
        assert int(row["step"]) == status["step"]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (row["loss"], row["seed"]) == (config["loss"]["name"], str(config["seed"]))
        typed = yaml.safe_load((folder / "overrides.yaml").read_text())
        assert shlex.split(row["command"]) == ["wgan-train", *typed]
    heads = page.tables["numbers"][0]
    for cells in page.tables["numbers"][1:]:
        final = status_of(tmp_path / "sweep" / cells[0])["final"]
        assert dict(zip(heads[1:], cells[1:], strict=True)) == {
            tag: f"{final[tag]:.4g}" if tag in final else "–" for tag in heads[1:]
        }
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 2
    with Image.open(tmp_path / "sweep" / "report.png") as picture:
        assert picture.width > 1000


def test_a_run_from_a_saved_config_is_repeated_from_its_own_config(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    folder = write(tmp_path / "a run", default, ["steps=3"], 3.0)
    argv = ["wgan-train", "steps=3", "--config-name", "_saved_config", "--config-dir", "/other"]
    (folder / "environment.json").write_text(json.dumps({"command": argv}))
    (run,) = read_runs([tmp_path])
    command = ["wgan-train", "--config-dir", str(folder), "--config-name", "config"]
    assert shlex.split(run.command) == command
    argv = ["wgan-train", "dataset=mine", "--config-name", "train", "--config-dir", "my configs"]
    (folder / "environment.json").write_text(json.dumps({"command": argv}))
    (run,) = read_runs([tmp_path])
    assert shlex.split(run.command) == ["wgan-train", "--config-dir", "my configs", "steps=3"]


@pytest.mark.parametrize(
    ("word", "argv"),
    [
        ("+hydra.callbacks.x._target_=os.mkdir", []),
        ("hydra/launcher=evil", []),
        ("model.generator._target_=os.mkdir", []),
        ("+model.generator={_target_:os.mkdir}", []),
        ("/evil@_global_=x", []),
        ("loss@hydra.callbacks=x", []),
        ("seed=${oc.env:SECRET}", []),
        ("seed=1", ["--config-dir", "a run/evil"]),
    ],
)
def test_a_command_to_paste_runs_no_code_of_the_runs_folder(
    word: str, argv: list[str], here: Path, default: dict[str, Any]
) -> None:
    folder = write(here / "a run", default, [], 3.0)
    (folder / "overrides.yaml").write_text(json.dumps([word]))
    (folder / "environment.json").write_text(json.dumps({"command": ["wgan-train", *argv]}))
    (run,) = read_runs([here])
    command = ["wgan-train", "--config-dir", str(folder), "--config-name", "config"]
    assert shlex.split(run.command) == command


def test_a_command_to_paste_has_the_words_that_were_typed(
    here: Path, default: dict[str, Any]
) -> None:
    words = ["loss=hinge", "+a.b=[1,2]", "~optimizer", "++optimizer.critic.lr=1e-4", "clip=null"]
    folder = write(here / "run", default, [], 3.0)
    (folder / "overrides.yaml").write_text(json.dumps(words))
    (run,) = read_runs([here])
    assert shlex.split(run.command) == ["wgan-train", *words]


def test_the_commands_of_real_runs_repeat_them(here: Path) -> None:
    words = [*TINY, "metrics=[]"]
    assert train([*words, "hydra.run.dir=first"]) == 0
    fork = ["resume=first/checkpoints/step_00000002.pt", "steps=3", "hydra.run.dir=fork"]
    assert train(fork) == 0
    (here / "mine" / "loss").mkdir(parents=True)
    (here / "mine" / "loss" / "mine.yaml").write_text(
        "_target_: wgan_cli.losses.Hinge\nname: mine\n"
    )
    assert train([*words, "loss=mine", "hydra.run.dir=own", "--config-dir=mine"]) == 0
    commands = {run.name: shlex.split(run.command) for run in read_runs([here])}
    assert commands["first"] == ["wgan-train", *words]
    forked = ["--config-dir", str(here / "fork"), "--config-name", "config"]
    assert commands["fork"] == ["wgan-train", *forked]
    own = ["--config-dir", str(here / "mine"), *words, "loss=mine"]
    assert commands["own"] == ["wgan-train", *own]


def test_names_are_relative_to_the_given_folders(tmp_path: Path, default: dict[str, Any]) -> None:
    for name in ("a/10", "a/2", "b/x/0"):
        write(tmp_path / name, default, [], 3.0)
    assert [run.name for run in read_runs([tmp_path])] == ["a/2", "a/10", "b/x/0"]
    assert [run.name for run in read_runs([tmp_path / "a"])] == ["2", "10"]
    assert [run.name for run in read_runs([tmp_path / "a" / "2"])] == ["2"]
    both = read_runs([tmp_path / "a", tmp_path / "a" / "2", tmp_path / "b"])
    assert [run.name for run in both] == ["a/2", "a/10", "b/x/0"]


def test_the_ranking_tag_can_be_chosen(
    tmp_path: Path, default: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, recall in (("0", 0.2), ("1", 0.7)):
        final = {"critic/loss": 1.0, "metrics/recall_pixel_179": recall}
        write(tmp_path / name, default, [f"clip=0.0{name}"], final=final)
    write(tmp_path / "2", default, ["clip=0.5"], 3.0, "running")
    assert report_command([str(tmp_path), "--by", "metrics/recall_pixel_179"]) == 0
    table = capsys.readouterr().out
    assert "ranked by metrics/recall_pixel_179: higher is better" in table
    assert [line.split()[0] for line in table.splitlines()[-5:-2]] == ["1", "0", "2"]
    assert report_command([str(tmp_path), "--by", "metrics/recal_pixel_179"]) == 2
    error = capsys.readouterr().err
    assert "Did you mean metrics/recall_pixel_179?" in error
    assert "critic/loss" in error
    with pytest.raises(ConfigError):
        Report(read_runs([tmp_path]), by="nothing")


def test_a_metric_of_unknown_direction_is_listed_and_not_ranked(
    tmp_path: Path, default: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, loss in (("0", 0.7), ("1", 0.2), ("2", 0.5)):
        final = {"critic/loss": loss, "critic/wasserstein": 1.0}
        write(tmp_path / name, default, [f"clip=0.0{name}5"], final=final)
    assert Report(read_runs([tmp_path])).by == "critic/wasserstein"
    assert report_command([str(tmp_path), "--by", "critic/loss"]) == 0
    table = capsys.readouterr().out
    assert "is better." not in table.splitlines()[0]
    assert "Not ranked: it is unknown whether more or less of critic/loss is better" in table
    assert "higher_is_better" in table
    assert "--by" in table
    rows = [line for line in table.splitlines() if "clip=" in line]
    assert [row.split()[0] for row in rows[:3]] == ["0.7", "0.2", "0.5"]
    assert "best" not in (tmp_path / "report.html").read_text().split("<tbody>", 1)[1][:2000]


@pytest.mark.parametrize(
    ("tag", "higher"),
    [
        ("wasserstein/exact", False),
        ("wasserstein/exact_raw", False),
        ("metrics/fid_classifier_10k", False),
        ("metrics/recall_pixel_179", True),
        ("metrics/share_within_3sigma_2k_raw", True),
        ("throughput/images_per_second", True),
        ("critic/lipschitz", None),
        ("metrics/mine_10k", None),
    ],
)
def test_the_better_direction_is_that_of_the_metrics_traits(tag: str, higher: bool | None) -> None:
    assert higher_is_better(tag) is higher


def test_without_the_exact_distance_the_first_common_metric_ranks(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    common = {"critic/loss": 0.1, "metrics/fid_classifier_2k": 1.0}
    write(tmp_path / "0", default, ["clip=0.1"], final={**common, "wasserstein/sliced": 1.0})
    write(tmp_path / "1", default, ["clip=0.2"], final=common)
    assert Report(read_runs([tmp_path])).by == "metrics/fid_classifier_2k"


def test_a_missing_folder_and_a_folder_without_runs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_command([str(tmp_path / "nowhere")]) == 4
    assert "there is no such folder" in capsys.readouterr().err
    assert report_command([str(tmp_path)]) == 4
    assert "there is no run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_files_are_written_to_the_given_folder(
    tmp_path: Path, default: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/0", "b/0"):
        write(tmp_path / name, default, [], 3.0)
    assert report_command(["a", "b"]) == 0
    assert (tmp_path / "report.html").is_file()
    assert report_command(["a", "--out", "deep/er"]) == 0
    names = {"report.html", "report.png", "summary.csv"}
    assert {path.name for path in (tmp_path / "deep" / "er").iterdir()} == names
    (tmp_path / "file").touch()
    assert report_command(["a", "--out", "file"]) == 7
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "report.html").symlink_to(tmp_path / "file")
    assert report_command(["a", "--out", "linked"]) == 4
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.exhaustive
def test_the_console_script_answers_and_loads_no_torch(
    shell: Command, tmp_path: Path, default: dict[str, Any]
) -> None:
    write(tmp_path / "sweep" / "0", default, ["clip=0.1"], 3.0)
    done = shell("sweep", command="wgan-report")
    assert done.returncode == 0, done.stderr
    assert "sweep/report.html" in done.stdout
    (tmp_path / "sweep" / "report.html").unlink()
    # The reader has closed the pipe before anything is written.
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as closed:
        words = [str(Path(sys.executable).with_name("wgan-report")), "sweep"]
        cut = subprocess.run(words, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (cut.returncode, cut.stderr) == (0, "")
    assert (tmp_path / "sweep" / "report.html").is_file()
    code = (
        "import sys; from wgan_cli.commands.report import run; run(['sweep'])\n"
        "print([name for name in ('torch', 'hydra') if name in sys.modules])"
    )
    words = [sys.executable, "-c", code]
    answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"

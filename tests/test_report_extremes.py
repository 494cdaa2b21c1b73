"""`wgan-report` on runs from elsewhere: extreme numbers, odd names, and files of other kinds."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics
import subprocess
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml
from matplotlib.ticker import Locator
from PIL import Image

from wgan_cli.commands.report import run as report_command
from wgan_cli.report import Report, Run, curves, read_runs, runs
from wgan_cli.report.ranking import SeedGroup, margin
from wgan_cli.report.writers import drawing, page, svg
from wgan_cli.search.study import FINISHED, StudySummary, TrialSummary

pytestmark = [pytest.mark.charts, pytest.mark.filterwarnings("error")]

EXACT = "wasserstein/exact"


def write(
    folder: Path,
    points: list[tuple[int, Any]],
    *,
    tag: str = EXACT,
    config: dict[str, Any] | None = None,
    state: str = "finished",
    **status: Any,
) -> Path:
    """A run with one curve, whose last value is its result."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, tag: value}) + "\n" for step, value in points]
    (folder / "metrics.jsonl").write_text("".join(lines))
    final = {tag: points[-1][1]} if points else {}
    facts = {"state": state, "exit_code": 0, "final": final, **status}
    (folder / "status.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(yaml.safe_dump(config or {}))
    return folder


def reported(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The page of a folder's report, which said nothing on stderr and could draw every chart."""
    assert report_command([str(folder), *words]) == 0
    assert capsys.readouterr().err == ""
    with Image.open(folder / "report.png") as picture:
        picture.load()
    assert (folder / "summary.csv").is_file()
    text = (folder / "report.html").read_text()
    assert svg.FAILED not in text
    return text


LARGEST = 1.7976931348623157e308
NUMBERS: dict[str, list[list[float]]] = {
    "huge": [[1e308, 1e308], [1e308, 1e308]],
    "largest": [[LARGEST, -LARGEST], [-LARGEST, LARGEST]],
    "tiny": [[1e-320, 1e-320], [2e-320, 5e-324]],
    "huge and tiny": [[1e308, 1e-320], [-1e308, 1e-320]],
    "a huge run": [[3.0, 1e308], [3.0, 3.1]],
    "from huge to small": [[1e308, 3.0], [1e-320, 3.1]],
    "around 0": [[0.0, -0.0], [5e-324, -5e-324]],
    "beyond": [[10**400, 1], [3, 10**308]],
    "no number": [[math.nan, math.nan], [math.inf, -math.inf]],
    "a point": [[3.0], [1e308]],
    "squares that vanish": [[1e-161, 2e-161], [1e-163, 1e-161]],
}


@pytest.mark.parametrize("state", ["finished", "diverged"])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_no_number_breaks_a_report(
    numbers: str, state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for group, ends in enumerate(NUMBERS[numbers]):
        for seed in range(2):
            values = [end * (1 + 0.5 * seed) if abs(end) < 1 else end for end in ends]
            points = [(10 * step, value) for step, value in enumerate(values)]
            config = {"clip": 0.01 * (1 + group), "n_critic": 1 + group, "seed": seed}
            place = tmp_path / f"{group}-{seed}"
            write(place, points, config=config, state=state if seed else "finished")
    reported(tmp_path, capsys)


def test_a_heat_map_of_extreme_means_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [1e308, -1e308, 1e-320, 3.0]
    for number, value in enumerate(values):
        config = {"clip": [1e-320, 1e308][number % 2], "n_critic": [1, 10**300][number // 2]}
        write(tmp_path / str(number), [(1, value)], config=config)
    text = reported(tmp_path, capsys)
    assert "<h2>Heat maps</h2>" in text
    assert "1e+308" in text


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan")])
def test_settings_beyond_floats_make_no_heat_map(
    value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        config = {"clip": [value, 2][number % 2], "n_critic": [1, 2][number // 2]}
        write(tmp_path / str(number), [(1, 3.0)], config=config)
    assert "<h2>Heat maps</h2>" not in reported(tmp_path, capsys)


@pytest.mark.parametrize(
    "steps", [[0, 2**53 - 1], [2**53 - 2, 2**53 - 1], [2**53 - 1], [1, 10**400]]
)
def test_no_step_breaks_a_report(
    steps: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "0", [(step, 3.0) for step in steps], step=10**300, steps=10**400)
    write(tmp_path / "1", [(step, 3.1) for step in steps], seconds=1e308, state="running")
    assert EXACT in reported(tmp_path, capsys)


def test_a_page_has_a_limited_number_of_charts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "MOST_PANELS", 3)
    write(tmp_path / "0", [(1, 3.0)])
    point = {"step": 1, **{f"tag/{number}": 1.0 for number in range(10_000)}}
    (tmp_path / "0" / "metrics.jsonl").write_text(json.dumps(point))
    text = reported(tmp_path, capsys)
    assert "The first 3 of 10000 tags." in text
    assert text.count("<svg") == 3


NAMES = [
    "<script>alert(1)</script>",
    "a\nb\tc\r\x00\x1b[2J\x85",
    "l" * 300,
    "$\\frac{1}{$",
    "&amp;\"'",
    "\ud800",
    "",
    "图表 𝔘",
    "%s {} {{ x }} {% raw %}",
]


def test_no_name_breaks_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(NAMES):
        config = {name: number, "clip": name, "seed": name}
        write(tmp_path / str(number), [(1, 3.0)], tag=name, config=None, message=name)
        (tmp_path / str(number) / "config.yaml").write_text(json.dumps(config))
        words = yaml.safe_dump([f"clip={name}"], allow_unicode=False)
        (tmp_path / str(number) / "overrides.yaml").write_text(words)
    text = reported(tmp_path, capsys)
    assert "<script>alert" not in text
    assert f"{'l' * 59}…" in text


@pytest.mark.parametrize("scale", [1.0, 2.0**1020, 2.0**-1000])
def test_means_and_intervals_keep_their_value_at_every_scale(scale: float) -> None:
    def group(*numbers: float) -> SeedGroup:
        scaled = tuple(scale * number for number in numbers)
        return SeedGroup("", (), (), (), scaled, None)

    better, other = group(1.0, 1.5, 2.0), group(2.5, 3.5)
    assert better.mean == scale * 1.5
    assert better.sd == scale * 0.5
    lead, plain = margin(better, other, EXACT), 1.5
    assert lead is not None
    assert lead.interval is not None
    assert lead.amount == scale * plain
    found = scipy.stats.ttest_ind([2.5, 3.5], [1.0, 1.5, 2.0], equal_var=False)
    expected = found.confidence_interval()
    assert np.divide(lead.interval, scale) == pytest.approx([expected.low, expected.high])


def test_a_mean_of_the_largest_numbers_is_exact() -> None:
    numbers = (LARGEST, LARGEST, -LARGEST, 1e300)
    group = SeedGroup("", (), (), (), numbers, None)
    exact = sum(map(Fraction, numbers)) / 4
    assert group.mean == pytest.approx(float(exact))
    assert SeedGroup("", (), (), (), (0.1, 0.2, 0.4), None).mean == statistics.fmean(
        [0.1, 0.2, 0.4]
    )


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("values", [[1e308, -1e308], [1e308], [1e-320, 1e-321], [3.0, 1e308, 3.1]])
def test_no_value_of_a_trial_breaks_the_chart_of_a_search(
    values: list[float], direction: str
) -> None:
    trials = tuple(TrialSummary(n, FINISHED, value, {"x": 1}) for n, value in enumerate(values))
    section = page._search_section(StudySummary("m", direction, 9, trials, {}))
    assert "<svg" in section["chart"]


class Broken(Locator):
    """Fails when the picture is drawn."""

    def __call__(self) -> Any:
        raise ValueError("broken")


@pytest.mark.parametrize("late", [True, False])
def test_a_chart_that_cannot_be_drawn_leaves_the_others(
    late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "0", [(1, 3.0)])
    point = {"step": 1, EXACT: 3.0, "critic/<b>": 1.0}
    (tmp_path / "0" / "metrics.jsonl").write_text(json.dumps(point))
    set_limits = drawing._set_limits

    def failing(axes: Any, panel: Any, coloured_ranks: int) -> None:
        if panel.tag != EXACT and late:
            axes.xaxis.set_major_locator(Broken())
        elif panel.tag != EXACT:
            raise ValueError("broken")
        set_limits(axes, panel, coloured_ranks)

    monkeypatch.setattr(drawing, "_set_limits", failing)
    assert report_command([str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert f"{svg.FAILED}: critic/&lt;b&gt;" in text
    assert text.count("<svg") == 1
    with Image.open(tmp_path / "report.png") as picture:
        picture.load()
    assert capsys.readouterr().err == ""


def test_a_run_that_cannot_be_read_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("0", "1"):
        write(tmp_path / name, [(1, 3.0)])
    read = runs._read

    def failing(path: Path, name: str) -> Run:
        if name == "1":
            raise RecursionError
        return read(path, name)

    monkeypatch.setattr(runs, "_read", failing)
    good, bad = read_runs([tmp_path])
    assert good.final == {EXACT: 3.0}
    assert bad.message == "The files of this run cannot be read."
    assert "cannot be read" in Report([good, bad]).table()


SPECIAL = ["status.json", "config.yaml", "overrides.yaml", "environment.json", "metrics.jsonl"]
SPECIAL += [".lock", "samples/step_00000001.png"]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "folder"])
@pytest.mark.parametrize("name", SPECIAL)
def test_no_kind_of_file_stops_a_report(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write(tmp_path / str(number), [(1, 3.0)], state="running")
    path = tmp_path / "0" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    reported(tmp_path, capsys)


def test_a_large_picture_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "0", [(1, 3.0)])
    (run / "samples").mkdir()
    with (run / "samples" / "step_1.png").open("wb") as file:
        file.truncate(2**40)
    assert "<img" not in reported(tmp_path, capsys)


def test_a_deep_tree_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "0", [(1, 3.0)])
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1500):
            Path("d").mkdir()
            os.chdir("d")
        os.chdir(tmp_path)
        Path("loop").symlink_to(tmp_path)
        Path("self").symlink_to("self")
        reported(tmp_path, capsys)
        assert [run.name for run in read_runs([tmp_path])] == ["0"]
    finally:
        # Python 3.11 cannot remove such a tree by itself.
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)
        os.chdir(here)


def test_folders_that_cannot_be_listed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "0", [(1, 3.0)])
    write(tmp_path / "hidden" / "1", [(1, 3.0)])
    (tmp_path / "link").symlink_to(tmp_path / "hidden" / "1")
    scandir, stat = os.scandir, Path.stat

    def refusing(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == "hidden":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def refusing_stat(self: Path, **how: Any) -> os.stat_result:
        if self.parent.name == "link":
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **how)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(Path, "stat", refusing_stat)
    assert [run.name for run in read_runs([tmp_path])] == ["0"]


def test_no_text_in_a_table_is_a_formula(tmp_path: Path) -> None:
    formula = "=cmd|' /C calc'!A0"
    texts = [formula, "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\0=1", "a\r=1", " =1"]
    for number, text in enumerate(texts):
        run = write(tmp_path / f"{number}", [(1, -0.5)], tag=f"=a{number}")
        (run / "config.yaml").write_text(json.dumps({"clip": text}))
        status = json.loads((run / "status.json").read_text())
        (run / "status.json").write_text(json.dumps({**status, "message": text, "state": text}))
    run = write(tmp_path / "=1", [(1, -0.5)], config={"clip": -1e-7, "seed": formula})
    assert report_command([str(tmp_path)]) == 0
    rows = list(csv.reader(io.StringIO((tmp_path / "summary.csv").read_text(), newline="")))
    cells = [cell for row in rows for cell in row]
    assert "'=1" in cells
    assert f"'{formula}" in cells
    assert {"'=a0", "-0.5", "-1e-07"} <= set(cells)
    assert {len(row) for row in rows} == {len(rows[0])}
    for cell in cells:
        if cell.strip().startswith(("=", "+", "-", "@")):
            assert math.isfinite(float(cell))


def test_drawable_values_have_squares_and_ranges() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = curves.drawable([LARGEST, -LARGEST, 1e-320, -0.5, math.nan])
        assert np.isfinite(shown[:4] ** 2).all()
    assert shown[2:4].tolist() == [0.0, -0.5]
    assert np.isnan(shown[4])

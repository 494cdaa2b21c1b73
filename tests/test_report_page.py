"""`report.html` and `report.png`: curves, heat maps, samples, and files with hostile content."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_report import EXACT, Tables, default, page_of, write

from benchmarks.report import write_runs
from wgan_cli.commands.report import run as report_command
from wgan_cli.report import Report, read_runs
from wgan_cli.report.curves import HeatMap, merged, thinned
from wgan_cli.report.writers.drawing import heat_chart

pytestmark = pytest.mark.charts

__all__ = ["default"]

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "$\\frac{1}{0}$ {{ 7 * 7 }} {% raw %}",
    "]]></style><b>&amp;\u202e\x1b[31mred\x00",
    "half a sign \ud800",
)


def points(folder: Path, *lines: dict[str, float]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.exhaustive
def test_sixty_runs_are_on_one_page_without_network_or_broken_references(tmp_path: Path) -> None:
    write_runs(tmp_path, 60)
    report = Report(read_runs([tmp_path]))
    page = page_of(report, tmp_path)
    text = (tmp_path / "report.html").read_text()
    beside_pictures = re.sub(r'"data:[^"]*"', "", text)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", beside_pictures)
    sources = [value for _, found in page.tags for key, value in found.items() if key == "src"]
    assert sources
    assert all(source and source.startswith("data:image/") for source in sources)
    links = [v for _, found in page.tags for k, v in found.items() if k in ("href", "xlink:href")]
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    used = {link[1:] for link in links if link} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)
    assert len(page.tables["runs"]) == 61
    assert len(page.tables["settings"]) == 21
    assert "14 other settings" in page.words
    assert {found.get("name") for tag, found in page.tags if tag == "meta"} >= {"viewport"}
    for rule in ("prefers-color-scheme: dark", "@media print", "var(--s0)", "currentColor"):
        assert rule in text
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width > 1000
    with (tmp_path / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == page.column("runs", "run")
    assert sum(int(row["counted"]) for row in rows) == sum(s.n for s in report.groups)


def test_hostile_overrides_messages_and_tags_are_escaped(
    tmp_path: Path, default: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, text in enumerate(HOSTILE):
        config = {**default, "loss": {**default["loss"], "name": text}, text: number}
        final = {EXACT: 3.0 + number, text: 1.0, f"metrics/{text}": 2.0}
        told = {"message": text, "state": text if number else "finished", "final": final}
        folder = write(tmp_path / os.fsdecode(b"%d&<i>\xff" % number), config, [], **told)
        (folder / "overrides.yaml").write_text(json.dumps([f"loss={text}", f"seed={text}"]))
        points(folder, {"step": 1, **final}, {"step": 2, **final})
    assert report_command([str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "\x1b" not in table
    assert "\x00" not in table
    text = (tmp_path / "report.html").read_text()
    page = Tables(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "i")]
    assert not [key for _, found in page.tags for key in found if key.startswith("on")]
    assert "49" not in "".join(page.column("runs", "message"))
    assert page.column("runs", "message")[0] == HOSTILE[0]
    assert "\x00" not in (tmp_path / "summary.csv").read_text()
    with (tmp_path / "summary.csv").open(newline="") as file:
        messages = {row["message"] for row in csv.DictReader(file)}
    assert HOSTILE[0] in messages


BROKEN = [
    ("status.json", b""),
    ("status.json", b'{"state": "fin'),
    ("status.json", b"[1, 2]"),
    ("status.json", b"\xff\xfe\x00"),
    ("status.json", b'{"state": [1], "final": {"wasserstein/exact": "x"}, "step": "many"}'),
    ("status.json", b'{"state": null, "final": 3, "step": 1e999, "seconds": NaN}'),
    (
        "status.json",
        b'{"step": 1%s, "final": {"wasserstein/exact": 1%s}}' % (b"0" * 400, b"0" * 400),
    ),
    ("metrics.jsonl", b'{"step": 1, "a": 1%s}' % (b"0" * 400)),
    ("config.yaml", b""),
    ("config.yaml", b"a: [1, 2"),
    ("config.yaml", b"- 1\n- 2\n"),
    ("config.yaml", b"loss: 3\ndataset: [1]\nmodel: {generator: 2}\nseed: {a: 1}\nsteps: x\n"),
    ("config.yaml", b"a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]\n" * 20),
    ("config.yaml", b"{" * 5000),
    ("config.yaml", b"clip: 0x1%s\nseed: 0x1%s\n" % (b"0" * 9000, b"0" * 9000)),
    ("overrides.yaml", b"- seed=0x1%s\n- clip=0x1%s\n" % (b"0" * 9000, b"0" * 9000)),
    ("config.yaml", b"!!python/object/apply:os.system ['touch hacked']\n"),
    ("overrides.yaml", b"{a: 1"),
    ("overrides.yaml", b"- 3\n- {a: 1}\n- '='\n"),
    ("environment.json", b'{"command": 3}'),
    ("environment.json", b'{"command": ["--config-name"]}'),
    ("metrics.jsonl", b'{"step": 1, "wasserstein/exact": 3.2}\n{"step": 2, "wasser'),
    ("metrics.jsonl", b'{"step": true, "a": NaN}\n{"step": -5, "a": Infinity}\nnull\n'),
    ("metrics.jsonl", b'{"step": 100000000000000000000000, "a": 1}\n{"step": 3, "a": 1}'),
    ("samples/step_00000020.png", b"\x89PNG\r\n\x1a\n broken"),
]


def test_a_broken_file_hides_neither_its_run_nor_others(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    for number, (name, content) in enumerate(BROKEN):
        broken = write(tmp_path / str(number), default, ["clip=0.1"], 2.0)
        (broken / "samples").mkdir()
        (broken / name).write_bytes(content)
    write(tmp_path / "sound", default, ["clip=0.2"], 3.0)
    runs = read_runs([tmp_path])
    for run in runs:
        page_needs = (run.settings, run.curves, run.command, run.seed, run.newest_samples)
        assert page_needs
    report = Report(runs)
    page = page_of(report, tmp_path / "out")
    values = dict(zip(page.column("runs", "run"), page.column("runs", EXACT), strict=True))
    assert values.keys() == {"sound", *map(str, range(len(BROKEN)))}
    assert values["sound"] == "3"
    for number, (name, _) in enumerate(BROKEN):
        assert values[str(number)] == "2" or name == "status.json"
    assert not list(tmp_path.rglob("hacked"))


def test_a_run_without_status_shows_what_it_logged(tmp_path: Path, default: dict[str, Any]) -> None:
    folder = write(tmp_path / "0", default, [], 3.0)
    (folder / "status.json").unlink()
    (run,) = read_runs([tmp_path])
    assert (run.state, run.step, run.final[EXACT]) == ("unknown", 20, 3.0)
    (folder / "metrics.jsonl").unlink()
    page = page_of(Report(read_runs([tmp_path])), tmp_path)
    assert page.column("runs", "state") == ["unknown"]


def test_folders_named_like_files_are_no_error(tmp_path: Path) -> None:
    for name in ("status.json", "config.yaml", "metrics.jsonl", "overrides.yaml"):
        (tmp_path / "0" / name).mkdir(parents=True)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "status.json").write_text("{}")
    (tmp_path / "1" / "metrics.jsonl").mkdir()
    runs = read_runs([tmp_path])
    assert [run.name for run in runs] == ["1"]
    page_of(Report(runs), tmp_path)


def test_curves_are_means_over_seeds_in_a_band_from_least_to_greatest() -> None:
    steps, mean, low, high = merged(
        [
            (np.array([0, 10, 20]), np.array([1.0, 2.0, 4.0])),
            (np.array([0, 20, 30]), np.array([3.0, 6.0, 9.0])),
        ]
    )
    assert steps.tolist() == [0, 10, 20, 30]
    assert mean.tolist() == [2.0, (2.0 + 4.5) / 2, 5.0, 9.0]
    assert low.tolist() == [1.0, 2.0, 4.0, 9.0]
    assert high.tolist() == [3.0, 4.5, 6.0, 9.0]


def test_thinned_curves_keep_their_ends() -> None:
    for count, most in ((1, 300), (5, 300), (301, 300), (100_000, 300), (7, 2)):
        kept = thinned(count, most)
        assert len(kept) == min(count, most)
        assert (kept[0], kept[-1]) == (0, count - 1)


def test_panels_show_floors_and_a_line_for_each_failed_run(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    for seed, state in enumerate(("finished", "finished", "running", "diverged")):
        folder = write(tmp_path / str(seed), default, [f"seed={seed}"], 3.0, state)
        lines = ({"step": 1, EXACT: 4.0 + seed}, {"step": 2, EXACT: 3.0, "critic/loss": 1.0})
        more = {f"{EXACT}_real_real": 2.0, f"{EXACT}_raw": 5.0, "throughput/step_ms": 1.0}
        points(folder, *lines, {"step": 3, EXACT: 3.5, f"{EXACT}_n": 8, **more})
    panels = {panel.tag: panel for panel in Report(read_runs([tmp_path])).panels[0]}
    assert set(panels) == {EXACT, "critic/loss"}
    mean, lost = panels[EXACT].lines
    assert panels[EXACT].floors == (3.0,)
    assert (mean.mean[0], mean.low[0], mean.high[0], mean.failed) == (5.0, 4.0, 6.0, False)
    assert lost.failed
    assert lost.mean.tolist() == [7.0, 3.0, 3.5]


def test_two_numeric_settings_make_a_heat_map_for_each_choice_of_the_others(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    number = 0
    for loss in ("hinge", "wasserstein"):
        for clip, rate, value in ((0.01, 0.1, 1.0), (0.01, 0.2, 2.0), (0.02, 0.1, 3.0)):
            for seed in (0, 1):
                words = [f"loss={loss}", f"clip={clip}", f"optimizer.lr={rate}", f"seed={seed}"]
                write(tmp_path / str(number), default, words, value + seed)
                number += 1
        words = [f"loss={loss}", "clip=0.02", "optimizer.lr=0.2"]
        write(tmp_path / str(number), default, words, 9.0, "diverged")
        number += 1
    report = Report(read_runs([tmp_path]))
    maps, note = report.heat_maps
    assert note == ""
    assert sorted(one.fixed for one in maps) == ["loss=hinge", "loss=wasserstein"]
    for one in maps:
        assert one.keys == ("clip", "optimizer.lr")
        assert (one.xs, one.ys) == ((0.01, 0.02), (0.1, 0.2))
        assert np.array_equal(one.cells, [[1.5, 3.5], [2.5, np.nan]], equal_nan=True)
        assert one.failed.tolist() == [[False, False], [False, True]]
    assert "Heat maps" in page_of(report, tmp_path).words


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ([(1, 1), (1, 2), (2, 1), (2, 2)], True),
        ([(1, 1), (2, 2)], False),
        ([(1, 1), (2, 2), (3, 3), (4, 4)], False),
    ],
)
def test_results_that_share_no_row_make_no_heat_map(
    cells: list[tuple[int, int]], shown: bool, tmp_path: Path, default: dict[str, Any]
) -> None:
    for place, (a, b) in enumerate(cells):
        write(tmp_path / str(place), default, [f"clip=0.{a}", f"optimizer.lr=0.{b}"], 3.0)
    # A run without a result fills no cell.
    write(tmp_path / "last", default, ["clip=0.1", "optimizer.lr=0.3"], state="preempted")
    maps, note = Report(read_runs([tmp_path])).heat_maps
    assert bool(maps) is shown
    assert ("runs fill too little of the grid of" in note) is not shown


@pytest.mark.parametrize("low", [0.000122039, 0.5])
def test_a_heat_maps_labels_fit_and_differ(low: float) -> None:
    values = (low, low * 1.3, low * 1.7)
    one = HeatMap("", ("clip", "optimizer.lr"), values, values, np.eye(3), np.eye(3) > 1)
    (left,) = re.findall(r"rotate\(-90 ([-\d.]+) ", heat_chart(one, "w"))
    assert 8.5 <= float(left) < 40
    # Close values get different tick labels.
    assert "1.00002" in heat_chart(replace(one, ys=(1.0, 1.00001, 1.00002)), "w")


def test_a_note_where_more_than_two_settings_are_numeric(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    for number, (a, b, c) in enumerate(np.ndindex(2, 2, 2)):
        words = [f"clip=0.{a + 1}", f"optimizer.lr=0.{b + 1}", f"ema=0.{c + 1}"]
        write(tmp_path / str(number), default, words, 3.0)
    maps, note = Report(read_runs([tmp_path])).heat_maps
    assert maps == []
    assert "3 numeric settings vary" in note


def test_each_settings_best_run_shows_its_newest_samples(
    tmp_path: Path, default: dict[str, Any]
) -> None:
    for number, (clip, value) in enumerate(((0.1, 3.0), (0.1, 2.0), (0.2, 4.0))):
        words = [f"clip={clip}", f"seed={number}"]
        folder = write(tmp_path / str(number), default, words, value)
        (folder / "samples").mkdir()
        for step, shade in ((9, 0), (10, 80 * (number + 1))):
            picture = Image.new("RGB", (900, 600), (shade, shade, shade))
            picture.save(folder / "samples" / f"step_{step:08d}.png")
    page = page_of(Report(read_runs([tmp_path])), tmp_path)
    shades = []
    for _, found in (tag for tag in page.tags if tag[0] == "img"):
        data = base64.b64decode((found["src"] or "").partition(",")[2])
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) == 300
            shades.append(picture.getpixel((5, 5)))
    assert shades == [(160,) * 3, (240,) * 3]
    assert "clip=0.1 (run 1, step 10)" in page.words

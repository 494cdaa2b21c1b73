"""The host's side of `python -m benchmarks.gpu`: time, records, comparisons, and its verdict."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import cases, plan, summary, updates
from benchmarks.gpu.commands import Finished, foreign_lines, logged
from benchmarks.gpu.compare import cosine, difference, movement
from benchmarks.gpu.processes import run_child
from benchmarks.gpu.profiling import covered
from benchmarks.gpu.records import NOT_REAL, Record, Reporter, Work, parsed
from benchmarks.gpu.reference import exact_step
from benchmarks.gpu.trainings import Progress, value_of
from benchmarks.measuring import tutorial_precision

DEVICE = {"available": True, "name": "a card", "values_are_real": True}


def records_of(stream: io.StringIO) -> list[Record]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_parts_share_the_time_that_is_left():
    everything = plan.chosen(None)
    assert everything == [1, 2, 3, 4, 5, 6, 7]
    assert plan.chosen("6,1") == [1, 6]
    weights = {number: part.weight for number, part in plan.PARTS.items()}
    assert plan.limit(1, everything[1:], 480) == pytest.approx(480 * weights[1] / 480)
    assert plan.limit(7, [], 33) == 33
    # Part 1 takes nothing: the others share its time.
    assert plan.limit(2, everything[2:], 480) > weights[2]
    with pytest.raises(ValueError, match="no part 8"):
        plan.chosen("8")


def test_a_child_is_heard_until_it_is_killed(tmp_path: Path):
    heard: list[Record] = []
    script = tmp_path / "child.py"
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('no record', flush=True)\n"
        'print(\'{"kind": "fact", "name": "child", "value": %d}\' % child.pid, flush=True)\n'
        "time.sleep(60)\n"
    )
    ending = run_child([str(script)], 60, heard.append, quiet=0.5)
    assert ending.timed_out
    assert ending.seconds < 30
    (record,) = heard
    # The child's own child has been killed too; its entry may wait for a parent to collect it.
    state = Path(f"/proc/{record['value']}/stat")
    deadline = time.monotonic() + 10
    while (
        state.exists()
        and state.read_text(encoding="utf-8").split()[2] != "Z"
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not state.exists() or state.read_text(encoding="utf-8").split()[2] == "Z"
    failed = run_child(["-c", "import sys; sys.exit('what happened')"], 60, heard.append)
    assert (failed.code, failed.timed_out) == (1, False)
    assert "what happened" in failed.stderr
    assert parsed('{"kind": "check", "na') is None
    assert parsed("3") is None


def test_a_crash_costs_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    work = Work(Reporter(stream, real=True), 60, tmp_path)
    script = tmp_path / "cases.py"
    script.write_text(
        "import json, os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    print(json.dumps({'kind': 'case', 'name': name}), flush=True)\n"
        "    if name == 'bad': os._exit(3)\n"
        "    print(json.dumps({'kind': 'fact', 'name': name, 'value': 1}), flush=True)\n"
    )
    monkeypatch.setattr(cases, "command", lambda *given: [str(script), *given[3]])
    cases.run_cases(work, 2, ["one", "two", "bad", "four", "five"], workers=2, longest=30)
    found = records_of(stream)
    assert {r["name"] for r in found if r["kind"] == "fact"} == {"one", "two", "four", "five"}
    (failed,) = (r for r in found if r["kind"] == "check")
    assert (failed["name"], failed["passed"]) == ("bad", False)
    assert "exit code 3" in failed["found"]


def test_numbers_are_not_judged_where_nothing_is_computed():
    stream = io.StringIO()
    report = Reporter(stream, real=False)
    report.check("a loss", False, 0.0, 1.0, numbers=True)
    report.check("an exit code", False, 1, 0)
    loss, code = records_of(stream)
    assert (loss["passed"], loss["why"]) == (None, NOT_REAL)
    assert code["passed"] is False


def test_failed_checks_come_first(tmp_path: Path):
    report = summary.new_report(DEVICE)
    part = report["parts"]["3"] = summary.new_part(3, 10)
    for name, passed in (("fine", True), ("broken", False), ("zeros", None)):
        record = {"kind": "check", "name": name, "passed": passed, "found": 1, "wanted": 2}
        summary.add(part, record)
    summary.add(part, {"kind": "fact", "name": "time", "value": 1.5})
    summary.write(report, tmp_path)
    text = (tmp_path / "summary.txt").read_text()
    assert text.index("FAILED 3: broken\n    found 1; wanted 2") < text.index("fine")
    assert "3 checks: 1 failed, 1 not judged" in text
    assert json.loads((tmp_path / "gpu.json").read_text())["passed"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "summary.txt"]
    part["checks"] = [check for check in part["checks"] if check["name"] != "broken"]
    summary.add(part, {"kind": "error", "text": "RuntimeError: gone"})
    assert [check["found"] for _, check in summary.failures(report)] == ["RuntimeError: gone"]


def test_a_part_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parts after it run, and the exit code is 1."""
    script = tmp_path / "part.py"
    script.write_text(
        "import json, os, sys\n"
        "print(json.dumps({'kind': 'fact', 'name': 'seen', 'value': 1}), flush=True)\n"
        "os._exit(4 if sys.argv[1] == '1' else 0)\n"
    )
    monkeypatch.setattr(command, "command", lambda work, part, *_: [str(script), str(part)])
    monkeypatch.setattr(command, "_device", lambda work: DEVICE)
    out = tmp_path / "out"
    assert command.main([f"--out={out}", "--parts=1,3", "--minutes=1"]) == 1
    parts = json.loads((out / "gpu.json").read_text())["parts"]
    assert [part["state"] for part in parts.values()] == ["ended with code 4", "done"]
    assert parts["1"]["facts"] == {"seen": 1}
    assert command.main([f"--out={out}", "--parts=3", "--minutes=1"]) == 0
    assert command.main([f"--out={out}", "--parts=3", "--minutes=0.1"]) == 0
    assert json.loads((out / "gpu.json").read_text())["parts"]["3"]["state"] == "no time left"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_device_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main([f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("no CUDA device") == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["device"]["available"] is False


@pytest.mark.parametrize("word", ["--parts=8", "--parts=a", "--minutes=0", "--mnist=nowhere"])
def test_wrong_options(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as exit_code:
        command.main([f"--out={tmp_path}", word])
    assert exit_code.value.code == 2
    assert word.partition("=")[0] in capsys.readouterr().err


def test_what_is_not_the_programs_own_log_is_found(tmp_path: Path):
    (tmp_path / "train.log").write_text(
        "2026-01-01 10:00:00,123 INFO run folder: here\n2026-01-01 10:00:01,000 WARNING careful\n"
    )
    stderr = (
        "run folder: here\n\ncareful\njob   0  finished     seed=1\n"
        "UserWarning: odd\n  5%|#  | 1/20\rrun folder: here\n"
    )
    done = Finished(0, "", stderr, 1.0, tmp_path)
    assert done.foreign == foreign_lines(stderr, logged(tmp_path)) == ["UserWarning: odd"]
    assert done.warnings == ["careful"]
    fallback = "The critic update cannot be a CUDA graph (it waits): it runs kernel by kernel."
    assert Finished(0, "", f"a\n{fallback}\n", 1.0).without_graph == [fallback]


def test_movements_are_compared_by_their_direction():
    start = {"w": torch.zeros(2), "b": torch.zeros(1)}
    end = {"w": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])}
    moved = movement(start, end)
    assert moved.tolist() == [1, 0, 1]
    assert cosine(moved, 3 * moved) == pytest.approx(1)
    assert cosine(moved, torch.tensor([1.0, 0.0, -1.0]).double()) == 0
    assert cosine(0 * moved, moved) == 0
    assert cosine(0 * moved, 0 * moved) == 1
    assert cosine(math.nan * moved, moved) == 0


def test_states_are_the_same_only_bit_by_bit():
    one: dict[str, Any] = {"step": 5, "net": {"w": torch.tensor([1.0, math.nan])}, "k": [1, 2]}
    again = {"step": 5, "net": {"w": torch.tensor([1.0, math.nan])}, "k": [1, 2]}
    assert difference(one, again)["equal"]
    near = {**one, "net": {"w": torch.tensor([3.0, 4.0])}}
    far = {**one, "net": {"w": torch.tensor([3.0, 4.5])}}
    found = difference(far, near)
    assert found["where"] == "net/w"
    assert found["largest"] == pytest.approx(0.1)
    assert not difference({"w": torch.tensor(0.0)}, {"w": torch.tensor(-0.0)})["equal"]
    assert not difference(one, {**one, "step": 6})["equal"]
    assert not difference(one, {**one, "more": 1})["equal"]


def test_busy_time_counts_overlaps_once():
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4


def test_the_time_to_a_quality_is_the_first_point_that_reaches_it(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    progress = Progress(tmp_path, 100)
    points = [
        {"step": 1, "fid_2000": 3.0, "fid_2000_raw": 1.0, "recall": 0.6},
        {"step": 2, "fid_2000": 2.0},
    ]
    for seconds, point in enumerate(points, start=1):
        with file.open("a") as stream:
            stream.write(json.dumps(point) + '\n{"step"')
        progress.read(float(seconds))
        file.write_text(file.read_text().removesuffix('{"step"'))
    second = {"s": 2.0, "step": 2}
    assert progress.reached({"fid": 2.5}) == {"fid": second, "all at once": second}
    assert progress.reached({"fid": 1.5}) == {"fid": None, "all at once": None}
    both = progress.reached({"fid": 2.5, "recall": 0.5})
    assert both == {"fid": second, "recall": {"s": 1.0, "step": 1}, "all at once": None}
    assert value_of(points[0], "fid") == 3.0
    assert value_of({"fid": 1.0}, "fid") == 1.0


def test_every_combination_is_named_once():
    names = updates.names()
    assert len(names) == len(set(names)) == 6 * 3 * 5 * 3


@pytest.mark.usefixtures("one_seeded_thread")
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("mlp+hinge+gradient_penalty+adam", "fp32"),
        ("dcgan+wasserstein+clip+rmsprop", "bf16"),
        ("mlp+gan+orthogonal+sgd", "fp32"),
        ("mlp_dcgan+wasserstein+spectral_norm+adam", "fp32"),
    ],
)
def test_the_tool_takes_the_exact_step(name: str, precision: str, tmp_path: Path):
    """On the CPU, where it is known to be right; not so with another noise."""
    updates.make_images(tmp_path)
    config, device = updates.composed(updates.words(name, tmp_path, "cpu"))
    config = dataclasses.replace(config, precision=precision)
    dataset = updates._dataset("array", tmp_path)
    trainer = updates.trainer_of(config, dataset, device)
    inputs, start = updates.inputs_of(trainer), updates._weights(trainer)
    trainer.train_step()
    means, ends = trainer.means.means(), updates._weights(trainer)
    verdicts = []
    for noise in (inputs.generator_noise, inputs.critic_noise):
        given = dataclasses.replace(inputs, generator_noise=noise)
        exact = exact_step(config, dataset.sample_shape, given)
        angles = {n: cosine(movement(start[n], ends[n]), exact.moved[n]) for n in start}
        rule = updates.RULES[precision]
        verdicts.append(updates.within(updates.errors(means, exact), angles, rule))
    assert verdicts == [True, False]


def test_tutorials_have_tf32_inside_the_block_only():
    cudnn: Any = torch.backends.cudnn
    kinds = (cudnn.conv, cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        with tutorial_precision(torch.device("cpu")):
            assert [kind.fp32_precision for kind in kinds] == ["ieee", "ieee"]
        with pytest.raises(KeyError), tutorial_precision(torch.device("cuda")):
            assert [kind.fp32_precision for kind in kinds] == ["tf32", "tf32"]
            raise KeyError
        assert [kind.fp32_precision for kind in kinds] == ["ieee", "ieee"]
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision

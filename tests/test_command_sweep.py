from __future__ import annotations

import hashlib
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, metrics_of, status_of

from benchmarks.forked_commands import CommandServer
from wgan_cli.commands.train import run
from wgan_cli.config import configs_folder
from wgan_cli.errors import DataError
from wgan_cli.losses import Gan, Hinge

# The others take longer than the training.
TINY = [*TINY, "metrics=[wasserstein/exact]"]
GRID = ["loss=wasserstein,hinge", "clip=0.01,0.03"]
PAIRS = [
    ["loss=wasserstein", "clip=0.01"],
    ["loss=wasserstein", "clip=0.03"],
    ["loss=hinge", "clip=0.01"],
    ["loss=hinge", "clip=0.03"],
]


def sweep(*words: str) -> int:
    return run(["-m", *TINY, "hydra.sweep.dir=sweep", *words])


def jobs_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def snapshot(sweep: Path, job: str = "*") -> dict[Path, tuple[int, str]]:
    """Every file of every job, or of one. Hydra rewrites its own multirun.yaml beside them."""
    return {
        path: (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sweep.glob(f"{job}/**/*")
    }


def typed_in(job: Path) -> list[str]:
    return [w for w in yaml.safe_load((job / "overrides.yaml").read_text()) if w not in TINY]


def test_a_sweep_trains_every_combination_in_its_own_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*GRID) == 0
    assert jobs_in(here / "sweep") == ["0", "1", "2", "3"]
    for number, pair in enumerate(PAIRS):
        job = here / "sweep" / str(number)
        assert status_of(job)["state"] == "finished"
        assert typed_in(job) == pair
        config = yaml.safe_load((job / "config.yaml").read_text())
        assert [f"loss={config['loss']['name']}", f"clip={config['clip']}"] == pair
        assert metrics_of(job)[-1]["step"] == 2
    rows = capsys.readouterr().out.splitlines()
    for number, pair in enumerate(PAIRS):
        row = next(row for row in rows if row.split()[:1] == [str(number)])
        assert "finished" in row
        assert all(word in row for word in pair)


@pytest.mark.exhaustive
def test_sweeps_go_to_a_folder_named_by_their_start(here: Path) -> None:
    assert run(["-m", *TINY, "seed=1,2"]) == 0
    (folder,) = (here / "outputs" / "multirun").iterdir()
    assert jobs_in(folder) == ["0", "1"]


@pytest.mark.exhaustive
def test_each_failed_job_tells_its_own_story_and_a_rerun_mends_it_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN, missing data, an impossible pair and a defect beside a job that finishes."""
    option = here / "mine" / "dataset" / "mine.yaml"
    option.parent.mkdir(parents=True)
    shipped = yaml.safe_load((configs_folder() / "dataset" / "array.yaml").read_text())
    option.write_text(yaml.safe_dump({**shipped, "path": "mine.npz"}))
    pair = here / "mine" / "constraint" / "pair.yaml"
    pair.parent.mkdir()
    pair.write_text("_target_: wgan_cli.constraints.Unconstrained\nname: pair\n")
    words = ["--config-dir", "mine", "loss=wasserstein,hinge,gan", "dataset=digits,mine"]
    words += ["constraint=clip,pair", "clip=0.1", "log_every=1", "metrics=[wasserstein/exact]"]

    def nan(self: Hinge, fake_scores: torch.Tensor) -> torch.Tensor:
        return fake_scores.mean() * float("nan")

    def defect(self: Gan, fake_scores: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(Hinge, "generator", nan)
        broken.setattr(Gan, "generator", defect)
        assert sweep(*words) == 1
    jobs = {" ".join(typed_in(job)[:3]): job for job in (here / "sweep").iterdir() if job.is_dir()}
    assert len(jobs) == 12
    answer = capsys.readouterr()
    rows = answer.out.splitlines()
    before = {}
    for typed, job in jobs.items():
        status, log = status_of(job), (job / "train.log").read_text()
        expected = ("finished", 0, "run folder")
        if "loss=hinge" in typed:
            expected = ("diverged", 5, "became NaN")
        if "loss=gan" in typed:
            expected = ("failed", 1, "a defect")
        if "dataset=mine" in typed:
            expected = ("failed", 3, "there is no such file")
        if "constraint=pair" in typed:
            expected = ("failed", 2, "clip=0.1 has no effect")
        assert (status["state"], status["exit_code"]) == expected[:2], typed
        assert expected[2] in log
        assert f"job {job.name}: " in log
        assert ("Traceback" in log) == (status["exit_code"] == 1)
        if status["exit_code"]:
            assert expected[2] in status["message"]
            assert status["message"].removeprefix("ZeroDivisionError: ") in log
        row = next(row for row in rows if row.split()[:1] == [job.name])
        assert expected[0] in row
        assert status["message"] in row
        if status["state"] == "finished":
            before[job] = snapshot(job.parent, job.name)
    assert len(before) == 1

    # The causes mended, in the files: what was typed says which job is which.
    np.savez(here / "mine.npz", x=np.random.default_rng(0).standard_normal((100, 4)))
    pair.write_text((configs_folder() / "constraint" / "clip.yaml").read_text())
    assert sweep(*words) == 0
    assert len(jobs_in(here / "sweep")) == 12
    for job in jobs.values():
        status = status_of(job)
        assert (status["state"], status["exit_code"], status["message"]) == ("finished", 0, "")
        assert metrics_of(job)[-1]["step"] == 2
    for job, files in before.items():
        assert snapshot(job.parent, job.name) == files


@pytest.mark.exhaustive
def test_an_impossible_pair_is_a_failed_row_and_the_others_finish(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model=mlp,dcgan", "dataset=gaussians_ring,digits", "eval_samples=8"]
    assert sweep(*words) == 1
    states = [status_of(here / "sweep" / str(number))["state"] for number in range(4)]
    assert states == ["finished", "finished", "failed", "finished"]
    status = status_of(here / "sweep" / "2")
    assert status["exit_code"] == 2
    assert "model=dcgan" in status["message"]
    answer = capsys.readouterr()
    row = next(row for row in answer.out.splitlines() if row.split()[:1] == ["2"])
    assert "failed" in row
    assert "model=dcgan" in row
    assert "Traceback" not in answer.err
    assert not (here / "sweep" / "status.json").exists()


@pytest.mark.exhaustive
def test_settings_without_effect_together_fail_their_job_alone(here: Path) -> None:
    assert sweep("constraint=clip,none", "clip=0.1") == 1
    states = [status_of(here / "sweep" / str(number))["state"] for number in range(2)]
    assert states == ["finished", "failed"]
    assert status_of(here / "sweep" / "1")["exit_code"] == 2


@pytest.mark.exhaustive
def test_missing_data_fails_its_job_alone(here: Path) -> None:
    option = here / "mine" / "dataset" / "absent.yaml"
    option.parent.mkdir(parents=True)
    shipped = yaml.safe_load((configs_folder() / "dataset" / "mnist.yaml").read_text())
    option.write_text(yaml.safe_dump({**shipped, "root": "nowhere", "download": False}))
    assert sweep("dataset=absent,digits", "--config-dir", "mine") == 1
    states = [status_of(here / "sweep" / str(number)) for number in range(2)]
    assert [status["state"] for status in states] == ["failed", "finished"]
    assert states[0]["exit_code"] == 3
    assert str(here / "nowhere") in states[0]["message"]


@pytest.mark.parametrize("words", [["clip=abc,0.1"], ["clip=0.1,abc"], ["loss=hinge,wassserstein"]])
def test_a_sweep_that_does_not_compose_is_refused_whole(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*words) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_the_same_sweep_again_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("seed=1,2") == 0
    before = snapshot(here / "sweep")
    capsys.readouterr()
    assert sweep("seed=1,2") == 0
    assert snapshot(here / "sweep") == before
    rows = capsys.readouterr().out.splitlines()
    assert sum(row.split()[1:2] == ["finished"] for row in rows) == 2


@pytest.mark.exhaustive
def test_jobs_are_matched_by_their_overrides_not_their_numbers(here: Path) -> None:
    assert sweep("seed=1,2") == 0
    before = snapshot(here / "sweep")
    assert sweep("seed=3,2,1") == 0
    assert jobs_in(here / "sweep") == ["0", "1", "2"]
    assert [typed_in(here / "sweep" / str(number)) for number in range(3)] == [
        ["seed=1"],
        ["seed=2"],
        ["seed=3"],
    ]
    after = snapshot(here / "sweep")
    assert {path: after[path] for path in before} == before


def test_a_job_that_was_cut_short_goes_on(here: Path) -> None:
    words = ["seed=1,2", "log_every=1", "checkpoint_every=1"]
    assert sweep(*words) == 0
    job = here / "sweep" / "1"
    expected = (job / "metrics.jsonl").read_text().count("\n")
    (job / "checkpoints" / "step_00000002.pt").unlink()
    other = snapshot(here / "sweep" / "0")
    assert other
    assert sweep(*words) == 0
    assert snapshot(here / "sweep" / "0") == other
    assert status_of(job)["state"] == "finished"
    assert (job / "checkpoints" / "step_00000002.pt").exists()
    assert (job / "metrics.jsonl").read_text().count("\n") == expected


def test_a_failed_job_is_tried_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise DataError("no digits today")

    with monkeypatch.context() as patch:
        patch.setattr("wgan_cli.data.images.digits_table", broken)
        assert sweep("seed=1") == 1
    assert status_of(here / "sweep" / "0")["exit_code"] == 3
    assert sweep("seed=1") == 0
    assert jobs_in(here / "sweep") == ["0"]
    assert status_of(here / "sweep" / "0")["state"] == "finished"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_the_sweep_and_starts_no_further_job(
    number: int, code: int, command_server: CommandServer, tmp_path: Path
) -> None:
    words = [*TINY, "steps=1000000", "log_every=1", "seed=1,2,3", "hydra.sweep.dir=sweep"]
    process = command_server.start("wgan-train", ["-m", *words], tmp_path)
    job = tmp_path / "sweep" / "0"
    try:
        until = time.monotonic() + 120
        while not ((job / "status.json").exists() and status_of(job)["step"] >= 1):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert jobs_in(tmp_path / "sweep") == ["0"]
    status = status_of(job)
    assert status["exit_code"] == code
    assert status["state"] in ("interrupted", "preempted")
    assert (job / "checkpoints" / f"step_{status['step']:08d}.pt").exists()


@pytest.mark.exhaustive
def test_a_folder_of_ones_own_that_holds_another_job_is_left_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *TINY, "hydra.sweep.dir=sweep", "hydra.sweep.subdir='at ${seed}'"]
    assert run([*words, "seed=1"]) == 0
    capsys.readouterr()
    assert run([*words, "seed=1", "loss=hinge"]) == 1
    assert "holds another job" in capsys.readouterr().err
    status = status_of(here / "sweep" / "at 1")
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    assert run([*words, "seed=1"]) == 0


@pytest.mark.exhaustive
def test_jobs_may_lie_deeper(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", *TINY, "seed=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir='a/${seed}'"]
    assert run(words) == 0
    assert "a/1" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_the_order_of_words_makes_no_other_job(here: Path) -> None:
    assert run(["-m", *TINY, "seed=1,2", "loss=hinge", "hydra.sweep.dir=sweep"]) == 0
    assert run(["-m", "loss=hinge", "seed=1,2", *TINY, "hydra.sweep.dir=sweep"]) == 0
    assert jobs_in(here / "sweep") == ["0", "1"]


@pytest.mark.parametrize("how", ["typed", "in a file"])
def test_a_sweep_may_be_asked_for_by_hydras_mode(how: str, here: Path) -> None:
    recipe = here / "mine" / "experiment" / "two.yaml"
    recipe.parent.mkdir(parents=True)
    mode = {} if how == "typed" else {"mode": "MULTIRUN"}
    node = yaml.safe_dump({"hydra": {**mode, "sweeper": {"params": {"seed": "1,2"}}}})
    recipe.write_text(f"# @package _global_\n{node}")
    words = ["hydra.mode=MULTIRUN"] if how == "typed" else []
    words += ["--config-dir", "mine", "experiment=two", "hydra.sweep.dir=sweep"]
    assert run([*TINY, *words]) == 0
    assert jobs_in(here / "sweep") == ["0", "1"]


@pytest.mark.parametrize(
    ("params", "word"),
    [({"sed": "0,1"}, "sed"), ({"loss": "hinge,foo"}, "foo"), ({"clip": "0.1,abc"}, "clip")],
)
def test_a_recipes_own_sweep_is_refused_whole_too(
    params: dict[str, str], word: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = here / "mine" / "experiment" / "bad.yaml"
    recipe.parent.mkdir(parents=True)
    node = yaml.safe_dump({"hydra": {"sweeper": {"params": params}}})
    recipe.write_text(f"# @package _global_\n{node}")
    assert sweep("--config-dir", "mine", "experiment=bad") == 2
    answer = capsys.readouterr()
    assert word in answer.err
    assert len(answer.err.splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["mine"]


@pytest.mark.exhaustive
def test_a_sweep_answers_for_its_own_jobs_and_for_each_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise DataError("no digits today")

    with monkeypatch.context() as patch:
        patch.setattr("wgan_cli.data.images.digits_table", broken)
        assert sweep("seed=7") == 1
    # An earlier start's failure is shown, and is not this one's.
    assert sweep("seed=0,0") == 0
    answer = capsys.readouterr()
    assert "no digits today" in answer.out
    assert "no run was begun" not in answer.out
    # Two jobs in one folder: one is refused, and named.
    assert run(["-m", *TINY, "hydra.sweep.dir=one", "hydra.sweep.subdir=same", "seed=3,4"]) == 1
    answer = capsys.readouterr()
    assert "no run was begun or written for" in answer.out
    assert "seed=4" in answer.out.splitlines()[-3]


def test_a_sweep_does_not_go_into_a_runs_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*TINY, "hydra.run.dir=run"]) == 0
    before = snapshot(here, "run")
    assert run(["-m", *TINY, "seed=1,2", "hydra.sweep.dir=run"]) == 8
    assert "run holds a run already" in capsys.readouterr().err
    assert snapshot(here, "run") == before


def test_a_job_that_never_began_leaves_its_folder_free(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wgan_cli.data.images.digits_table", interrupted)
        assert sweep("seed=1,2") == 130
    assert not list((here / "sweep").glob("*/overrides.yaml"))


def test_the_mode_typed_as_a_setting_is_as_m(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "seed=1,2", "hydra.mode=MULTIRUN"]
    assert run([*words, "hydra.sweep.dir=s"]) == 0
    answer = capsys.readouterr()
    assert "job   1  finished     seed=2" in answer.err.replace(" ".join(TINY) + " ", "")
    assert "The page: s/report.html" in answer.out
    assert run([*words, "resume=s/0"]) == 2
    assert "-m starts many" in capsys.readouterr().err


def test_the_mode_of_an_own_experiment_is_as_m(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own" / "experiment").mkdir(parents=True)
    (here / "own" / "experiment" / "many.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n"
    )
    words = [*TINY, "--config-dir", "own", "experiment=many"]
    assert run([*words, "hydra.sweep.dir=s"]) == 0
    assert [status_of(here / "s" / job)["state"] for job in "01"] == ["finished"] * 2
    capsys.readouterr()


def test_m_counts_more_than_the_mode_of_one_run(
    here: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    assert run([*TINY, "-m", "hydra.mode=RUN", "hydra.sweep.dir=s"]) == 0
    assert status_of(here / "s" / "0")["state"] == "finished"
    assert not [warning for warning in recwarn if "Hydra" in str(warning.message)]


@pytest.mark.parametrize(
    "subdir",
    ["../x", "{here}/x", ".", ".hidden", "", "a/b/c/d", "${nowhere}", "x/../../${seed}", "${own}"],
)
def test_a_jobs_folder_outside_of_the_sweep_is_exit_2_before_any_starts(
    subdir: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = f"hydra.sweep.subdir='{subdir.format(here=here) if '{here}' in subdir else subdir}'"
    if subdir == "${own}":
        word = "hydra.sweep.subdir=${dataset.name}/../../${seed}"
    assert run([*TINY, "-m", "seed=1,2", "hydra.sweep.dir=s", word]) == 2
    assert "hydra.sweep.subdir" in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("subdir", ["${seed}/${hydra.job.num}", "j${hydra:job.num}"])
def test_a_jobs_folder_may_be_named_by_references(subdir: str, here: Path) -> None:
    words = ["-m", "seed=4,5", "hydra.sweep.dir=s", f"hydra.sweep.subdir={subdir}"]
    assert run([*TINY, *words]) == 0
    found = sorted(str(path.parent.relative_to(here / "s")) for path in here.rglob("status.json"))
    assert found == (["4/0", "5/1"] if "seed" in subdir else ["j0", "j1"])

"""Sweep folders from elsewhere: nothing is written through their links, and no job is lost."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Command

from wgan_cli.commands.sweep import _job_folders
from wgan_cli.commands.sweep_workers import own_gpu
from wgan_cli.commands.train import run
from wgan_cli.errors import DiskError


def sweep(*words: str) -> int:
    return run(["-m", *TINY, "logger=none", *words, "hydra.sweep.dir=theirs"])


def planted(here: Path, overrides: bool) -> Path:
    """The folder of a sweep's job, which has the overrides of ours or is reserved for nobody."""
    job = here / "theirs" / "0"
    job.mkdir(parents=True)
    if overrides:
        words = [*TINY, "logger=none", "seed=1"]
        (job / "overrides.yaml").write_text(yaml.safe_dump(words))
    return job


@pytest.mark.parametrize("there", [False, True], ids=["nowhere", "to a file"])
@pytest.mark.parametrize("name", ["status.json", "train.log", "overrides.yaml", ".lock"])
def test_a_failed_job_writes_through_no_link(
    name: str,
    there: bool,
    here: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path_factory.mktemp("elsewhere") / "mine"
    if there:
        mine.write_text("mine")
    job = planted(here, overrides=name != "overrides.yaml")
    (job / name).symlink_to(mine)
    code = sweep("seed=1")
    said = capsys.readouterr().err
    assert "Traceback" not in said
    # A link to a file in place of the overrides is a job of somebody else's: ours is job 1.
    taken = name == "overrides.yaml" and there
    assert code == (0 if taken else 1)
    assert taken or f"{name} is a link to {mine}" in said
    assert [path.read_text() for path in mine.parent.iterdir()] == ["mine"] * there


def test_a_finished_job_stays_if_another_cannot_be_reserved(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("seed=1") == 0
    job = here / "theirs" / "0"
    before = (job / "status.json").read_bytes(), (job / "overrides.yaml").read_bytes()
    os.mkfifo(here / "theirs" / ".jobs.lock")
    assert sweep("seed=2") == 1
    assert ".jobs.lock is neither a file nor a folder" in capsys.readouterr().err
    assert ((job / "status.json").read_bytes(), (job / "overrides.yaml").read_bytes()) == before


def test_links_to_other_folders_do_not_stop_a_sweep(here: Path) -> None:
    """A sweep's folder may hold links of the user's own; only a job does not go into one."""
    (here / "data").mkdir()
    assert run([*TINY, "logger=none", "hydra.run.dir=other"]) == 0
    (here / "other" / "status.json").write_text(json.dumps({"state": "running", "exit_code": None}))
    (here / "theirs").mkdir()
    (here / "theirs" / "data").symlink_to(here / "data")
    (here / "theirs" / "5").symlink_to(here / "other")
    assert sweep("seed=1") == 0
    assert [path.name for path in _job_folders(here / "theirs")] == ["0"]
    assert not list((here / "data").iterdir())


@pytest.mark.parametrize("name", ["1", "-1"])
def test_no_process_is_ended_that_a_sweep_did_not_start(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep removes the files of earlier workers first; one that it cannot remove ends it."""
    (here / "theirs" / ".workers" / name).mkdir(parents=True)
    assert sweep("seed=1", "hydra/launcher=joblib") == 7
    assert f".workers/{name} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["a link", "a file", "another user's"])
def test_the_locks_of_gpus_lie_in_a_folder_of_ones_own(
    kind: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks, elsewhere = here / f"wgan-train-{os.getuid()}", here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(here))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with own_gpu("cuda") as device:
        assert device == "cuda:0"
        assert stat.S_IMODE(locks.stat().st_mode) == 0o700
    if kind == "another user's":
        user = os.getuid()
        locks.rename(here / f"wgan-train-{user + 1}")
        monkeypatch.setattr("os.getuid", lambda: user + 1)
    else:
        locks.rename(here / "before")
        locks.symlink_to(elsewhere) if kind == "a link" else locks.touch()
    with pytest.raises(DiskError, match="set TMPDIR"), own_gpu("cuda"):
        pass
    assert not list(elsewhere.iterdir())


# In a process of their own: joblib's workers outlive a sweep, in the folder that they began in.
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_job_does_not_go_through_a_link_above_its_folder(
    launcher: str, here: Path, wgan: Command
) -> None:
    (here / "theirs").mkdir()
    (here / "elsewhere" / "0").mkdir(parents=True)
    (here / "theirs" / "a").symlink_to(here / "elsewhere")
    words = [f"hydra/launcher={launcher}", "hydra.sweep.subdir='a/${hydra.job.num}'"]
    done = wgan("-m", *TINY, "seed=1", *words, "hydra.sweep.dir=theirs")
    assert done.returncode == 4, done.stderr
    assert "a is a link to" in done.stderr
    assert not list((here / "elsewhere" / "0").iterdir())


def test_workers_are_noted_in_the_sweeps_folder_wherever_the_job_runs(
    here: Path, wgan: Command
) -> None:
    """Otherwise a stop signal would not reach them, and a job's folder would hold another sweep."""
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.job.chdir=true"]
    done = wgan("-m", *TINY, "logger=none", "seed=1", *words, "hydra.sweep.dir=theirs")
    assert done.returncode == 0, done.stderr
    job = here / "theirs" / "0"
    assert (job / "status.json").is_file()
    assert not (job / "theirs").exists()

"""Many starts at once: each has a folder of its own, and one named folder has one run."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, status_of

from benchmarks.forked_commands import CommandServer
from wgan_cli.commands.folders import reserved
from wgan_cli.commands.train import run
from wgan_cli.errors import FolderInUseError
from wgan_cli.run_folder import RunFolder

# The many of `pytest -m exhaustive`, the few of every run of the tests.
MANY = [pytest.param(20, marks=pytest.mark.exhaustive), 6]
WORDS = [*TINY, "eval_samples=4", "metrics=[wasserstein/exact]"]

# Starts a command so many times at once, in one instant by its own clock, and prints the exit
# codes. Forked once everything is imported, for that takes each of them seconds.
AT_ONCE = """
import datetime, json, os, sys
import hydra.core.utils
from wgan_cli.commands.train import run

class Instant(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 4, 5, 6, 7, 89, tz)

hydra.core.utils.datetime = Instant
count, words = int(sys.argv[1]), sys.argv[2:]
start, release = os.pipe()
children = []
for number in range(count):
    child = os.fork()
    if not child:
        os.close(release)
        output = os.open(f"said_{number}", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1), os.dup2(output, 2)
        sys.argv = ["wgan-train"]
        os.read(start, 1)
        code = run(words)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    children.append(child)
os.close(start), os.close(release)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


StartedAtOnce = Callable[..., list[int]]


@pytest.fixture
def started_at_once(command_server: CommandServer, here: Path) -> StartedAtOnce:
    """The exit codes of `count` starts of wgan-train; what number n said is in `said_n`."""

    def start(*words: str, count: int) -> list[int]:
        answer = command_server.python(AT_ONCE, [str(count), *words], here)
        said, complaints = answer.communicate(timeout=300)
        assert answer.returncode == 0, complaints
        codes: list[int] = json.loads(said)
        return codes

    return start


def assert_whole(folder: Path) -> None:
    """A finished run of two steps whose files all are of one process."""
    status = status_of(folder)
    assert (status["state"], status["step"], status["exit_code"]) == ("finished", 2, 0)
    (line,) = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 2
    (checkpoint,) = (folder / "checkpoints").iterdir()
    assert torch.load(checkpoint, weights_only=True)["step"] == 2
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert (folder / "train.log").read_text().count("run folder:") == 1


def names(*, of: str, count: int) -> set[str]:
    return {of, *(f"{of}-{number}" for number in range(1, count))}


@pytest.mark.parametrize("many", MANY)
def test_starts_in_one_instant_have_a_folder_each(
    many: int, started_at_once: StartedAtOnce, here: Path
) -> None:
    assert started_at_once(*WORDS, count=many) == [0] * many
    folders = list((here / "outputs" / "2026-03-04").iterdir())
    assert {folder.name for folder in folders} == names(of="05-06-07-000089", count=many)
    for folder in folders:
        assert_whole(folder)


@pytest.mark.exhaustive
def test_sweeps_in_one_instant_have_a_folder_each(
    started_at_once: StartedAtOnce, here: Path
) -> None:
    assert started_at_once("-m", *WORDS, "seed=1", count=3) == [0] * 3
    folders = list((here / "outputs" / "multirun").iterdir())
    assert {folder.name for folder in folders} == names(of="2026-03-04_05-06-07-000089", count=3)
    for folder in folders:
        assert_whole(folder / "0")


@pytest.mark.parametrize("many", MANY)
def test_of_many_starts_in_one_named_folder_one_trains(
    many: int, started_at_once: StartedAtOnce, here: Path
) -> None:
    codes = started_at_once(*WORDS, "hydra.run.dir=one", count=many)
    assert sorted(codes) == [0] + [8] * (many - 1)
    assert_whole(here / "one")
    assert sorted(path.name for path in here.iterdir() if path.is_dir()) == ["one"]
    for number, code in enumerate(codes):
        said = (here / f"said_{number}").read_text()
        assert "Traceback" not in said
        if code:
            assert said.startswith("wgan-train: ")
            assert len(said.splitlines()) == 1, said
            assert "one" in said
            assert "hydra.run.dir" in said


def test_a_name_that_is_taken_gets_a_number(here: Path) -> None:
    (here / "day").mkdir()
    (here / "day" / "start-1").write_text("a file has the name too")
    made = [reserved(here / "day" / "start") for _ in range(3)]
    assert [path.name for path in made] == ["start", "start-2", "start-3"]
    assert all(path.is_dir() for path in made)


def test_the_lock_of_a_killed_process_is_no_lock(here: Path) -> None:
    assert run([*WORDS, "hydra.run.dir=first"]) == 0
    holder = (
        "import fcntl, time\n"
        "lock = open('first/.lock', 'a')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", holder], cwd=here, stdout=subprocess.PIPE) as held:
        assert held.stdout is not None
        held.stdout.readline()
        assert run(["resume=first", "steps=3"]) == 8
        os.kill(held.pid, signal.SIGKILL)
        held.wait()
    assert (here / "first" / ".lock").exists()
    assert run(["resume=first", "steps=3"]) == 0
    assert status_of(here / "first")["step"] == 3
    with (here / "first" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_was_abandoned_while_it_was_opened_is_taken_anew(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (RunFolder(here / "one") for _ in range(3))
    first.claim(resuming=False)
    flock = fcntl.flock

    def after_the_first_has_gone(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.abandon()
        first.release()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", after_the_first_has_gone)
    second.claim(resuming=False)
    with pytest.raises(FolderInUseError):
        third.claim(resuming=False)
    second.release()
    third.claim(resuming=False)
    third.release()

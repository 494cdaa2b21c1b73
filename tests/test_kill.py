"""Runs that are killed at any moment go on from their newest checkpoint, as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import (
    TINY,
    assert_same_curves,
    assert_same_state,
    checkpoints_of,
    metrics_of,
    status_of,
)

from wgan_cli.errors import FolderInUseError
from wgan_cli.run_folder import RunFolder
from wgan_cli.training.checkpoint import find_checkpoints, load_checkpoint, load_newest, step_of

# The many of `pytest -m exhaustive`, the few of every run of the tests.
KILLS = [pytest.param(50, marks=pytest.mark.exhaustive), 12]
KEEP_EVERY = 10
# Kills fall on all of a process's life, from its first word to this many times what it takes to
# save a first checkpoint.
LIFE = 1.6
# Everything that a run does, it does often.
WORDS = [
    *(word for word in TINY if not word.startswith("steps")),
    "decay.kind=none",
    "ema=0.5",
    "metrics=[wasserstein/exact]",
    "eval_samples=16",
    "log_every=1",
    "checkpoint_every=1",
    "eval_every=2",
    "sample_every=3",
    f"keep_every={KEEP_EVERY}",
    "resume=auto",
]
ENDLESS = [*WORDS, "steps=1000000", "hydra.run.dir=mine"]

# Imports everything by a run of its own and then, with one thread, forks a run for each line: that
# takes milliseconds where a new process takes seconds. Without words it is `ENDLESS` as Hydra has
# composed it, for composing takes most of a second and touches no file.
NURSERY = f"""
import json, os, sys, threading, time
from pathlib import Path
from tqdm import tqdm
import wgan_cli.commands.run as execution
from wgan_cli.commands.train import run

with open("nursery.log", "w") as log:
    os.dup2(log.fileno(), 2)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
assert run({[*WORDS, "steps=3", "hydra.run.dir=first"]!r}) == 0
execute = execution.execute
composed = []
execution.execute = lambda config, path, overrides, sweep: composed.append((config, overrides))
run({ENDLESS!r})
execution.execute = execute
while len(os.listdir("/proc/self/task")) > 1:
    time.sleep(0.01)
print("ready", file=answers, flush=True)
for line in sys.stdin:
    words, prelude, folder = json.loads(line)
    child = os.fork()
    if child == 0:
        # tqdm's own is one for all processes, and stays locked by one that was killed with it.
        tqdm.set_lock(threading.RLock())
        os.chdir(folder)
        descriptor = os.open("child.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        exec(prelude, {{}})
        config, overrides = composed[0]
        os._exit(
            run(words) if words else execute(config, Path("mine"), overrides, sweep=False)
        )
    print(child, file=answers, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
"""


class Nursery:
    """Starts runs, each in a process of its own that can be killed, in the folder `here`."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._child: int | None = None
        assert self._answer() == "ready", (home / "nursery.log").read_text()

    def start(self, here: Path, words: list[str] | None = None, prelude: str = "") -> int:
        """The process's id. `prelude` is code that it executes first; it writes child.log."""
        assert self._process.stdin is not None
        print(json.dumps([words, prelude, str(here)]), file=self._process.stdin, flush=True)
        self._child = int(self._answer())
        return self._child

    def outcome(self) -> int:
        """The exit code of what was started last, or minus the signal that killed it."""
        self._child = None
        return int(self._answer())

    def settle(self) -> None:
        """Kill what a failed test has left."""
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            self.outcome()

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def open_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
def nursery(open_nursery: Nursery) -> Iterator[Nursery]:
    yield open_nursery
    open_nursery.settle()


def newest(folder: Path) -> int:
    """The step of the newest checkpoint that verifies, 0 where there is none."""
    state, _, warnings = load_newest(folder / "checkpoints")
    # What stands under a checkpoint's name is whole, whenever the writer was killed.
    assert warnings == []
    return 0 if state is None else state["step"]


def started_at(here: Path) -> int | None:
    """The step that the last process went on from, if it came so far as to say so."""
    said = re.search(r"Going on from mine/checkpoints/step_(\d+)\.pt", read(here / "child.log"))
    return int(said[1]) if said else None


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def assert_right_ones_are_kept(folder: Path, step: int) -> None:
    """The two newest, the best and every `KEEP_EVERY`th."""
    kept = {step_of(path): path for path in find_checkpoints(folder / "checkpoints")}
    for path in kept.values():
        load_checkpoint(path)
    lines = metrics_of(folder) if step else []
    distances = {
        line["step"]: line["wasserstein/exact"]
        for line in lines
        if "wasserstein/exact" in line and line["step"] <= step
    }
    best = {min(distances, key=lambda at: distances[at])} if distances else set()
    regular = set(range(KEEP_EVERY, step + 1, KEEP_EVERY))
    wanted = {at for at in (step, step - 1) if at > 0} | best | regular
    assert wanted <= kept.keys()
    # What is no longer wanted may wait for its deletion.
    assert len(kept.keys() - wanted) <= 2


@pytest.mark.parametrize("kills", KILLS)
def test_fifty_kills_at_random_moments(kills: int, nursery: Nursery, here: Path):
    folder, rng = here / "mine", random.Random(20171)

    def first_save(words: list[str] | None) -> float:
        """Seconds from the start of a process to a new checkpoint; it is killed then."""
        begun, before = time.monotonic(), newest(folder)
        child = nursery.start(here, words)
        while len(find_checkpoints(folder / "checkpoints")) <= before:
            assert time.monotonic() < begun + 60, read(here / "child.log")
            time.sleep(0.005)
        seconds = time.monotonic() - begun
        # It lives, so it has its folder to itself.
        with pytest.raises(FolderInUseError):
            RunFolder(folder).claim(resuming=True)
        os.kill(child, signal.SIGKILL)
        assert nursery.outcome() == -signal.SIGKILL
        return seconds

    ways = {"command": ENDLESS, "composed": None}
    lives = {way: LIFE * first_save(words) for way, words in ways.items()}
    parts = [(part + rng.random()) / kills for part in range(kills)]
    # The moments of each way are spread over the whole of its life.
    tries = [("command" if n % 5 == 0 else "composed", part) for n, part in enumerate(parts)]
    rng.shuffle(tries)
    started = []
    for way, part in tries:
        before = newest(folder)
        assert_right_ones_are_kept(folder, before)
        child = nursery.start(here, ways[way])
        time.sleep(part * lives[way])
        os.kill(child, signal.SIGKILL)
        assert nursery.outcome() == -signal.SIGKILL, read(here / "child.log")
        assert started_at(here) in (None, before), read(here / "child.log")
        started += [at for at in [started_at(here)] if at is not None]
        assert newest(folder) >= before > 0
    # Most had begun when they were killed, and went on.
    assert len(started) > kills / 4
    assert len(set(started)) > kills / 10

    end = newest(folder) + 5
    for name in ("mine", "whole"):
        nursery.start(here, [*WORDS, f"steps={end}", f"hydra.run.dir={name}"])
        assert nursery.outcome() == 0, read(here / "child.log")
    assert status_of(folder)["state"] == "finished"
    assert_same_state(folder, here / "whole")
    assert_same_curves(folder, here / "whole")
    assert list(folder.rglob("*.tmp")) == []


# Where saving step 3 is cut off: code that kills its process there, and the step that stands then.
CUTS = {
    "half of it is written": (
        """
        class Half:
            def __init__(self, file):
                self.file = file
            def __enter__(self):
                return self
            def __exit__(self, *exception):
                self.file.close()
            def write(self, data):
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                die()
        whole = Path.open
        def open_half(path, mode="r", *more, **named):
            file = whole(path, mode, *more, **named)
            return Half(file) if mode == "xb" and "step_00000003.pt" in path.name else file
        Path.open = open_half
        """,
        2,
    ),
    "it is not on the disk yet": (
        """
        whole = os.fsync
        def fsync(descriptor):
            if "step_00000003.pt" in os.readlink(f"/proc/self/fd/{descriptor}"):
                die()
            whole(descriptor)
        os.fsync = fsync
        """,
        2,
    ),
    "it is not in its place yet": (
        """
        whole = Path.replace
        Path.replace = lambda path, place: (
            die() if "step_00000003.pt" in path.name else whole(path, place)
        )
        """,
        2,
    ),
    "it is in its place": (
        """
        whole = Path.replace
        def replace(path, place):
            whole(path, place)
            if "step_00000003.pt" in path.name:
                die()
        Path.replace = replace
        """,
        3,
    ),
    "older ones are not deleted yet": (
        """
        from wgan_cli.training.callbacks import saving
        whole = saving.prune_checkpoints
        saving.prune_checkpoints = lambda folder, keep, also: (
            die() if (folder / "step_00000003.pt").exists() else whole(folder, keep, also)
        )
        """,
        3,
    ),
}


def test_a_save_that_is_cut_off_costs_nothing(nursery: Nursery, here: Path):
    words = [*WORDS, "steps=5", "hydra.run.dir=mine"]
    setting = "import os, signal\nfrom pathlib import Path\n"
    setting += "die = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
    (here / "uncut").mkdir()
    nursery.start(here / "uncut", words)
    assert nursery.outcome() == 0
    whole = here / "uncut" / "mine"
    for cut, (code, stands) in CUTS.items():
        place = here / cut
        place.mkdir()
        folder = place / "mine"
        nursery.start(place, words, prelude=setting + textwrap.dedent(code))
        assert nursery.outcome() == -signal.SIGKILL, cut
        assert newest(folder) == stands, cut
        assert len(list((folder / "checkpoints").iterdir())) == 3, cut
        nursery.start(place, words)
        assert nursery.outcome() == 0, cut
        assert started_at(place) == stands, cut
        assert_same_state(folder, whole)
        assert_same_curves(folder, whole)
        assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
            path.name for path in checkpoints_of(whole)
        ], cut

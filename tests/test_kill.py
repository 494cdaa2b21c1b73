"""Runs that are killed at any moment go on from their newest checkpoint, as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import re
import signal
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
    composed,
    metrics_of,
    status_of,
)
from omegaconf import OmegaConf

from benchmarks.forked_commands import CommandServer, ForkedProcess
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

# A run's process, after what a test has it execute first. Composing takes most of a second and
# touches no file, so the second goes on from a config that was composed before.
LOGGED = """
import json, os, sys
descriptor = os.open("child.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
os.dup2(descriptor, 1)
os.dup2(descriptor, 2)
"""
COMMAND = """
from wgan_cli.commands.train import run
sys.exit(run(sys.argv[1:]))
"""
COMPOSED = """
from pathlib import Path
from omegaconf import OmegaConf
from wgan_cli.commands.run import execute
config, overrides = json.loads(sys.argv[1])
sys.exit(execute(OmegaConf.create(config), Path("mine"), overrides, sweep=False))
"""


class Nursery:
    """Starts runs, each in a process of its own that can be killed, in the folder `here`."""

    def __init__(self, server: CommandServer) -> None:
        self._server = server
        overrides = [word for word in ENDLESS if not word.startswith("hydra.")]
        self._composed = json.dumps([OmegaConf.to_container(composed(ENDLESS)), overrides])
        self._child: ForkedProcess | None = None

    def start(self, here: Path, words: list[str] | None = None, prelude: str = "") -> int:
        """The process's id. `prelude` is code that it executes first; it writes child.log."""
        code, typed = (COMPOSED, [self._composed]) if words is None else (COMMAND, words)
        self._child = self._server.python(f"{LOGGED}\n{prelude}\n{code}", typed, here)
        return self._child.pid

    def outcome(self) -> int:
        """The exit code of what was started last, or minus the signal that killed it."""
        assert self._child is not None
        return self._child.wait(timeout=120)

    def settle(self) -> None:
        """Kill what a failed test has left."""
        if self._child is not None:
            self._child.kill()


@pytest.fixture
def nursery(command_server: CommandServer) -> Iterator[Nursery]:
    nursery = Nursery(command_server)
    yield nursery
    nursery.settle()


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
    return path.read_text(encoding="utf-8") if path.exists() else ""


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
        from wgan_cli.training.callbacks import checkpoints
        whole = checkpoints.prune_checkpoints
        checkpoints.prune_checkpoints = lambda folder, keep, also: (
            die() if (folder / "step_00000003.pt").exists() else whole(folder, keep, also)
        )
        """,
        3,
    ),
}


@pytest.mark.exhaustive
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

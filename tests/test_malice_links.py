"""Links in folders from elsewhere: what a command writes honestly, it never writes through a link.

An audit hook tells what each command writes in a folder. Each of these paths, and each folder on
the way to it, is then replaced by a link to a place outside.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import TINY, exhaustive_beyond

from benchmarks import watching
from benchmarks.forked_commands import CommandServer, Start
from wgan_cli.commands.sweep_workers import asking_workers_to_end
from wgan_cli.commands.train import run
from wgan_cli.errors import CheckpointError

# Each command's words, and the folder from elsewhere that it writes into.
COMMANDS = {
    "resume": (["wgan-train", "resume=run", "steps=4", "profile=true"], "run"),
    "sample": (["wgan-sample", "run", "--n", "4"], "run"),
    "eval": (["wgan-eval", "run", "--metrics", "exact,weights", "--n", "8"], "run"),
    "series": (["wgan-eval", "run", "--metrics", "exact", "--n", "8", "--all-checkpoints"], "run"),
    "report": (["wgan-report", "sweep"], "sweep"),
    "sweep": (["wgan-train", "-m", *TINY, "seed=0,1", "hydra.sweep.dir=sweep"], "sweep"),
    "search": (["wgan-search", "search", "--trials", "2"], "search"),
}
SPACE = """
metric: wasserstein/exact
words: [{words}]
space: {{clip: {{low: 0.01, high: 0.1}}}}
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, half a sweep and half a search, as somebody else may send them."""
    here = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert run([*TINY, "checkpoint_every=1", "hydra.run.dir=run"]) == 0
        assert run(["-m", *TINY, "seed=0", "hydra.sweep.dir=sweep"]) == 0
    return here


@pytest.fixture(scope="module")
def begun_search(honest: Path, command_server: CommandServer) -> Path:
    (honest / "space.yaml").write_text(SPACE.format(words=", ".join(TINY)))
    words = ["space.yaml", "--trials", "1", "--dir", "search"]
    done = command_server.run("wgan-search", words, honest)
    assert done.returncode == 0, done.stderr
    return honest / "search"


def written(command: str, here: Path, server: CommandServer) -> list[str]:
    """Return the paths that the command writes below its folder, and the folders above them."""
    (name, *words), folder = COMMANDS[command]
    record = here / "events"
    process = server.start(name, words, here, start=Start(watch=str(record)))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    root = (here / folder).resolve()
    paths = {path for path in watching.changed(watching.read(record)) if root in path.parents}
    paths |= {parent for path in paths for parent in path.parents if root in parent.parents}
    names = {str(path.relative_to(root)) for path in paths}
    # These names hold a process id or the time, so nobody can plant them.
    return sorted(name for name in names if not re.search(r"\.tmp$|tfevents", name))


def linked(here: Path, folder: str, name: str) -> Path:
    """Move a path outside and leave a link to it; return the folder outside."""
    path, outside = here / folder / name, here / "outside"
    outside.mkdir()
    place = outside / path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(place)
    elif path.suffix or path.name.startswith("."):
        place.write_text("mine")
    else:
        place.mkdir()
    path.symlink_to(place)
    return outside


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return every path below a folder, with its mode, time of change and content."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("command", exhaustive_beyond(["resume", "eval", "sample"], COMMANDS))
def test_a_link_at_any_path_that_is_written_keeps_what_is_outside(
    command: str,
    honest: Path,
    tmp_path: Path,
    command_server: CommandServer,
    request: pytest.FixtureRequest,
):
    if command == "search":
        request.getfixturevalue("begun_search")
    first = shutil.copytree(honest, tmp_path / "first", symlinks=True)
    names = written(command, first, command_server)
    assert names
    (program, *words), folder = COMMANDS[command]
    for number, name in enumerate(names):
        here = shutil.copytree(honest, tmp_path / str(number), symlinks=True)
        outside = linked(here, folder, name)
        before = snapshot(outside)
        done = command_server.run(program, words, here)
        said = f"{name}: {done.stdout}{done.stderr}"
        assert snapshot(outside) == before, said
        assert "Traceback" not in said, said
        assert done.returncode in (0, 1, 4), said
        assert done.returncode == 0 or "is a link to" in said, said


def test_the_workers_of_a_sweep_are_not_looked_for_through_a_link(tmp_path: Path):
    outside, sweep = tmp_path / "outside", tmp_path / "sweep"
    outside.mkdir()
    sweep.mkdir()
    (outside / "1").write_text("mine")
    (sweep / ".workers").symlink_to(outside)
    with pytest.raises(CheckpointError, match="is a link to"), asking_workers_to_end(sweep):
        pass
    assert [path.name for path in outside.iterdir()] == ["1"]

"""What commands write, execute, start and connect to, as seen from within their processes."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import TINY

import wgan_cli
from benchmarks import watching
from benchmarks.forked_commands import CommandServer, Start
from benchmarks.watching import Event


def events_of(server: CommandServer, code: str, folder: Path) -> list[Event]:
    record = folder.parent / "events"
    record.unlink(missing_ok=True)
    code = f"import os, shutil, socket, sqlite3, subprocess, sys\n{code}"
    process = server.python(code, [], folder, start=Start(watch=str(record)))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [event for event in watching.read(record) if event.action != "import"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "place"
    (folder / "inner").mkdir(parents=True)
    (folder / "file").write_text("")
    (folder / "link").symlink_to("../linked")
    (folder / "inner/link").symlink_to("../..")
    return folder


@pytest.mark.parametrize(
    ("code", "expected"),
    {
        "open('file').read()": [],
        "open('file', 'a')": [("write", "file")],
        "os.open('new', os.O_CREAT | os.O_WRONLY)": [("write", "new")],
        "open(os.open('file', os.O_RDONLY))": [],
        # As the file that is written is elsewhere.
        "open('link', 'w')": [("write", "../linked")],
        "open('inner/link/x', 'w')": [("write", "../x")],
        "os.mkdir('inner/x')": [("make", "inner/x")],
        "os.rename('file', 'inner/x')": [("remove", "file"), ("make", "inner/x")],
        "os.remove('link')": [("remove", "link")],
        "os.symlink('/', 'x')": [("make", "x")],
        "os.link('file', 'x')": [("make", "x")],
        "os.truncate('file', 3)": [("write", "file")],
        "os.chmod('file', 0o600)": [("write", "file")],
        "os.utime('inner/link')": [("write", "..")],
        "shutil.rmtree('inner')": [("remove", "inner/link"), ("remove", "inner")],
        "sqlite3.connect('x.db')": [("write", "x.db")],
        "sys.path.insert(0, '.'); open('m.py', 'w').close(); import m": [
            ("write", "m.py"),
            ("execute", "m.py"),
        ],
    }.items(),
)
def test_files_are_seen_under_their_real_paths(
    code: str, expected: list[tuple[str, str]], place: Path, command_server: CommandServer
):
    events = events_of(command_server, f"sys.dont_write_bytecode = True\n{code}", place)
    assert events == [Event(action, os.path.normpath(place / what)) for action, what in expected]


def test_programs_and_the_network_are_seen(place: Path, command_server: CommandServer):
    code = """
subprocess.run(["true", "x"])
os.system("true y")
socket.socket().bind(("127.0.0.1", 0))
if os.fork() == 0:
    os.execv("/bin/true", ["true", "z"])
os.wait()
"""
    events = events_of(command_server, code, place)
    assert watching.programs(events) == ["true x", "true y", "true z"]
    assert watching.network(events) == ["127.0.0.1 0"]


def test_a_killed_process_leaves_its_record(place: Path, command_server: CommandServer):
    record = place / "events"
    code = "import os\nopen('new', 'w')\nos.kill(os.getpid(), 9)"
    process = command_server.python(code, [], place, start=Start(watch=str(record)))
    assert process.wait(60) == -9
    assert watching.changed(watching.read(record)) == {place / "new"}


# What each command may write, below the current folder.
COMMANDS = {
    "wgan-train": ([*TINY, "debug=smoke", "hydra.run.dir=run"], ["run"]),
    "wgan-train -m": (["-m", *TINY, "seed=0,1", "hydra.sweep.dir=sweep"], ["sweep"]),
    "wgan-sample": (["run", "--n", "8"], ["run/samples"]),
    "wgan-eval": (["run", "--metrics", "exact", "--n", "8"], ["run"]),
    "wgan-report": (["run"], ["run"]),
}


def test_a_command_writes_in_its_own_folder_and_executes_installed_code_alone(
    command_server: CommandServer, tmp_path_factory: pytest.TempPathFactory
):
    here = tmp_path_factory.mktemp("here").resolve()
    temporary = tmp_path_factory.mktemp("temporary").resolve()
    record = tmp_path_factory.mktemp("record") / "events"
    installed = [
        *(Path(path).resolve() for path in sysconfig.get_paths().values()),
        Path(sys.base_prefix).resolve(),
        Path(wgan_cli.__file__).resolve().parent,
        Path(__file__).resolve().parents[1] / "wgan_cli",
    ]
    for name, (words, folders) in COMMANDS.items():
        record.unlink(missing_ok=True)
        env = {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
        process = command_server.start(
            name.partition(" ")[0], words, here, env, Start(watch=str(record))
        )
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        events = watching.read(record)
        own = [temporary, *(here / folder for folder in folders)]
        changed = watching.changed(events)
        assert any(path.is_relative_to(own[1]) for path in changed), name
        strange = {path for path in changed if not any(map(path.is_relative_to, own))}
        assert {path for path in strange if not path.is_relative_to("/dev")} == set(), name
        executed = watching.executed(events)
        assert {path for path in executed if not any(map(path.is_relative_to, installed))} == set()
        assert watching.network(events) == []
        assert set(watching.programs(events)) <= {"uname -p"}

"""Commands whose stdout and stderr are closed, or lead to a pipe that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, checkpoints_of, state_of, status_of

from benchmarks.forked_commands import CommandServer

# Closed as by `>&- 2>&- <&-`, where Python has no streams, or leading to a pipe without a reader.
CLOSED = "for n in (0, 1, 2): os.close(n)\nsys.stdin = sys.stdout = sys.stderr = None\n"
BROKEN = (
    "reading, writing = os.pipe()\n"
    "for n in (1, 2): os.dup2(writing, n)\n"
    "os.close(reading); os.close(writing)\n"
    "sys.stdout = open(1, 'w', buffering=1, closefd=False)\n"
)
STREAMS = {"closed": CLOSED, "broken": BROKEN}


@pytest.fixture(params=STREAMS)
def lost(request: pytest.FixtureRequest, command_server: CommandServer, tmp_path: Path):
    """Runs a command with such streams; returns its exit code."""

    def run(module: str, *words: str) -> int:
        code = (
            f"import os, sys\n{STREAMS[request.param]}"
            f"from wgan_cli.commands.{module} import main\nmain()\n"
        )
        return command_server.python(code, list(words), tmp_path).wait(timeout=120)

    return run


def test_commands_do_their_work_and_end_with_0(lost, tmp_path: Path) -> None:
    assert lost("train", *TINY, "hydra.run.dir=run") == 0
    run = tmp_path / "run"
    assert status_of(run)["state"] == "finished"
    assert len(checkpoints_of(run)) == 1
    assert state_of(run)["step"] == 2
    lines = (run / "train.log").read_text().splitlines()
    # What is printed, and no more than what is logged, must not get into a file of the run.
    assert all(line.startswith("20") for line in lines)
    assert lost("sample", "run", "--n", "4", "--out", "mine.npy") == 0
    assert (tmp_path / "mine.npy").is_file()
    assert lost("evaluate", "run", "--metrics", "exact", "--n", "16") == 0
    assert (run / "evaluation.json").is_file()
    assert lost("report", "run") == 0
    assert (run / "report.html").is_file()


def test_sweeps_and_searches_too(lost, tmp_path: Path) -> None:
    assert lost("train", *TINY, "-m", "seed=1,2", "hydra.sweep.dir=sweep") == 0
    assert [status_of(tmp_path / "sweep" / job)["state"] for job in "01"] == ["finished"] * 2
    space = "metric: wasserstein/exact\nspace:\n  clip: {low: 0.01, high: 0.02}\n"
    (tmp_path / "space.yaml").write_text(space)
    assert lost("search", "space.yaml", *TINY, "--trials", "1", "--dir", "search") == 0


@pytest.mark.parametrize("module", ["train", "evaluate", "sample", "report", "search"])
def test_help_and_mistakes_keep_their_codes(lost, module: str) -> None:
    assert lost(module, "--help") == 0
    assert lost(module, "--no-such-flag") == 2


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--info", "defaults"], ["--hydra-help"]])
def test_what_hydra_prints_needs_no_reader(lost, flags: list[str]) -> None:
    assert lost("train", *flags) == 0


@pytest.mark.exhaustive
def test_parallel_sweeps_too(lost, tmp_path: Path) -> None:
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert lost("train", *TINY, "-m", "seed=1,2", "hydra.sweep.dir=sweep", *parallel) == 0
    assert [status_of(tmp_path / "sweep" / job)["state"] for job in "01"] == ["finished"] * 2


def test_a_reader_that_stops_early_gets_the_first_line(tmp_path: Path) -> None:
    command = f"{Path(sys.executable).with_name('wgan-train')} --help | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
def test_an_error_is_not_held_back(env: dict[str, str]) -> None:
    code = (
        "import os, sys; from wgan_cli.commands.streams import set_up_streams\n"
        "set_up_streams(); print('first', file=sys.stderr); os.write(2, b'second')\n"
    )
    os_env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os_env, **env}, capture_output=True, check=True
    )
    assert done.stderr == b"first\nsecond"


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_all() -> None:
    code = (
        "import os; from wgan_cli.commands.streams import set_up_streams\n"
        "os.set_blocking(1, False); set_up_streams(); print('x' * 1_000_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert len(done.stdout) == 1_000_001


def test_names_that_the_terminal_cannot_show_do_not_end_a_command() -> None:
    code = (
        "from wgan_cli.commands.streams import set_up_streams\n"
        "set_up_streams(); print('\\u2192 \\udcff end')\n"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout.endswith(b"end\n")

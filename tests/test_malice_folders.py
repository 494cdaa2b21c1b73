"""Folders from elsewhere: only config.yaml is composed, and no file in them is waited for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, Command, checkpoints_of, metrics_of

from wgan_cli.commands import evaluate, report
from wgan_cli.commands.train import run

# What every attack tries to make, in the folder that a command is run in.
TRACE = "executed"
CALLBACKS = {"evil": {"_target_": "os.mkdir", "path": TRACE}}
HYDRA = {"hydra": {"callbacks": CALLBACKS}}

# What may lie in a folder from elsewhere, by its name there. All of it is harmful if composed.
PLANTED: dict[str, Any] = {
    # Hydra looks for this file in the folder before it takes its own launcher.
    "hydra/launcher/basic.yaml": {
        "defaults": ["/evil@_global_"],
        "_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    },
    "evil.yaml": HYDRA,
    "hydra/config.yaml": {"callbacks": CALLBACKS},
    "hydra/sweeper/basic.yaml": {"_target_": "os.mkdir", "path": TRACE},
    "hydra/job_logging/default.yaml": {
        "version": 1,
        "handlers": {"evil": {"()": "os.mkdir", "path": TRACE}},
        "root": {"handlers": ["evil"]},
    },
    "hydra/env/default.yaml": HYDRA,
    "_saved_config.yaml": HYDRA,
    "train.yaml": HYDRA,
    "loss/wasserstein.yaml": {"_target_": "os.mkdir", "path": TRACE},
    "experiment/paper.yaml": HYDRA,
    "logger/tensorboard.yaml": {"evil": {"_target_": "os.mkdir", "path": TRACE}},
}
COMMANDS = {
    "repeated": ["--config-dir", "theirs", "--config-name", "config", "hydra.run.dir=again"],
    "resumed": ["resume=theirs", "steps=3"],
    "repeated in a sweep": [
        *("-m", "--config-dir", "theirs", "--config-name", "config", "seed=1,2"),
        "hydra.sweep.dir=again",
    ],
}
# A run's folder is none of options: these name it as one.
REFUSED = {
    "options": [*TINY, "--config-dir", "theirs"],
    "options, with another option": [*TINY, "--config-dir", "theirs", "loss=hinge"],
    "options of a run that goes on": ["resume=theirs", "--config-dir", "theirs", "steps=3"],
    "the shipped config's name": [*TINY, "--config-dir", "theirs", "--config-name", "train"],
    "the saved config's name": [*TINY, "--config-dir=theirs", "--config-name=_saved_config"],
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        assert run([*TINY, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def theirs(honest: Path, here: Path) -> Path:
    """A run folder that somebody else has made, with everything in it that may do harm."""
    folder = shutil.copytree(honest, here / "theirs")
    for name, content in PLANTED.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize("how", COMMANDS)
def test_a_runs_folder_contributes_its_config_alone(how: str, theirs: Path, here: Path) -> None:
    assert run(COMMANDS[how]) == 0
    assert not (here / TRACE).exists()
    if how == "resumed":
        assert checkpoints_of(theirs)[-1].name == "step_00000003.pt"


@pytest.mark.parametrize("how", REFUSED)
def test_a_runs_folder_is_no_folder_of_options(
    how: str, theirs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(REFUSED[how]) in (2, 4)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in here.iterdir()) == ["theirs"]


def test_these_files_do_harm_in_a_folder_of_ones_own(theirs: Path, here: Path) -> None:
    """Otherwise the tests above would show nothing."""
    shutil.copytree(theirs / "hydra" / "launcher", here / "mine" / "hydra" / "launcher")
    shutil.copy(theirs / "evil.yaml", here / "mine")
    run([*TINY, "--config-dir", "mine", "hydra.run.dir=own"])
    assert (here / TRACE).is_dir()


SMALL = ["config.yaml", "status.json", "overrides.yaml", "environment.json", "metrics.jsonl"]
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 12)]
)


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def as_bomb(path: Path) -> None:
    path.write_text(BOMB, encoding="utf-8")


def as_deep(path: Path) -> None:
    path.write_text('{"step": ' * 3000 + "1" + "}" * 3000, encoding="utf-8")


@pytest.mark.parametrize("how", [as_pipe, as_endless, as_bomb, as_deep], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", SMALL)
def test_no_command_waits_for_a_file_or_fills_the_memory(
    name: str, how: Callable[[Path], None], honest: Path, tmp_path: Path, wgan: Command
) -> None:
    shutil.copytree(honest, tmp_path / "theirs")
    how(tmp_path / "theirs" / name)
    for command, words in (
        ("wgan-report", ["theirs"]),
        ("wgan-sample", ["theirs", "--n", "4"]),
        ("wgan-eval", ["theirs", "--metrics", "exact", "--n", "8"]),
        ("wgan-train", ["resume=theirs", "steps=3"]),
    ):
        done = wgan(*words, command=command)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 2, 4), done.stderr
        if done.returncode:
            assert name in done.stderr


LINE = '{"step": 1, "critic/wasserstein": 0.5, "wasserstein/exact": 3.0'
METRICS = {
    "a distance without its number of samples": LINE + "}",
    "a number of samples without its distance": '{"step": 1, "wasserstein/exact_n": 4}',
    "a lone surrogate": LINE + ', "wasserstein/exact_n": 4, "\\ud800": 1}',
    "a step of 400 digits": f'{{"step": 1{"0" * 400}, "wasserstein/exact": 1}}',
    "a value of 400 digits": f'{{"step": 1, "wasserstein/exact": 1{"0" * 400}}}',
    "a step below 0": '{"step": -1, "wasserstein/exact": 3.0}',
    "a truth": '{"step": true, "wasserstein/exact": 3.0}',
    "values at the end of what floats hold": (
        '{"step": 1, "wasserstein/exact": 1e308, "wasserstein/exact_n": -1e308, "x": 1e-320}'
    ),
    "no numbers": '{"step": 1, "wasserstein/exact": NaN, "wasserstein/exact_n": -Infinity}',
}


@pytest.mark.parametrize("what", METRICS)
def test_a_run_goes_on_over_edited_metrics(
    what: str, honest: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = shutil.copytree(honest, here / "theirs")
    lines = (theirs / "metrics.jsonl").read_text()
    (theirs / "metrics.jsonl").write_text(f"{METRICS[what]}\n{lines}")
    assert run(["resume=theirs", "steps=3"]) == 0
    assert "Traceback" not in capsys.readouterr().err
    assert [point["step"] for point in metrics_of(theirs)][-2:] == [2, 3]
    assert evaluate.run(["theirs", "--metrics", "exact", "--n", "8"]) == 0
    assert report.run(["theirs"]) == 0

"""Folders from elsewhere: besides its config.yaml, nothing in a run's folder is composed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, checkpoints_of

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

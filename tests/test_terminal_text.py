"""What commands print holds no control characters of somebody else's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import TINY

from wgan_cli.commands import evaluate, report, sample, train
from wgan_cli.run_folder import RunFolder
from wgan_cli.terminal_text import printable

# Clears the screen, sets the window's title, and turns the direction of writing.
EVIL = "\x1b[2J\x1b]0;title\x07\u202e\x9b2J"


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.run([*TINY, f"hydra.run.dir={folder}"]) == 0
    return folder


def test_control_characters_are_written_out() -> None:
    assert printable("é\x1b[2J\u202e\udcff\x00") == "é\\x1b[2J\\u202e\\udcff\\x00"
    assert printable("a\tb\r\nc") == "a b  c"
    assert printable("a\nb", "\n") == "a\nb"


def config(run: Path, **changed: object) -> None:
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changed}))


def resumed() -> None:
    train.run(["resume=theirs", "steps=3"])


ATTACKS: dict[str, tuple[Callable[[Path], object], Callable[[], object]]] = {
    "a class": (lambda run: config(run, model={"_target_": f"evil{EVIL}.x"}), resumed),
    "a setting": (lambda run: config(run, **{EVIL: 1}), resumed),
    "a reference": (lambda run: config(run, seed="${" + EVIL), resumed),
    "a checkpoint's name": (
        lambda run: (run / "checkpoints" / f"step_{EVIL}.pt").touch(),
        lambda: sample.run([f"theirs/checkpoints/step_{EVIL}.pt"]),
    ),
    "a folder": (lambda run: run.rename(f"theirs{EVIL}"), lambda: sample.run([f"theirs{EVIL}"])),
    "an evaluated folder": (
        lambda run: run.rename(f"theirs{EVIL}"),
        lambda: evaluate.run([f"theirs{EVIL}", "--metrics", "exact", "--n", "4"]),
    ),
    "a resumed folder": (
        lambda run: run.rename(f"theirs{EVIL}"),
        lambda: train.run([f'resume="theirs{EVIL}"', "steps=3"]),
    ),
    "a status": (
        lambda run: (run / "status.json").write_text(
            json.dumps({"state": EVIL, "message": EVIL, "final": {EVIL: 1.0}})
        ),
        lambda: report.run(["theirs", "--out", f"out{EVIL}"]),
    ),
    "an option's line of help": (
        lambda run: (
            (run / "loss").mkdir()
            or (run / "loss" / "own.yaml").write_text(f"# Own {EVIL}.\n_target_: x\n")
        ),
        lambda: train.run(["--help", "--config-dir", "theirs"]),
    ),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_no_command_prints_control_characters(
    what: str, trained_run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, command = ATTACKS[what]
    plant(shutil.copytree(trained_run, here / "theirs"))
    command()
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    assert said.strip()
    assert [sign for sign in said if not sign.isprintable() and sign != "\n"] == []
    for log in here.glob("*/train.log"):
        assert "\x1b" not in log.read_text()


def test_a_folders_name_is_one_word_of_the_commands_to_type(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "run; touch executed"
    assert train.run([*TINY, f"hydra.run.dir='{name}'"]) == 0
    said = capsys.readouterr().out
    assert f"wgan-sample '{name}'\n" in said
    assert f"wgan-eval '{name}'\n" in said
    assert f"tensorboard --logdir '{name}'\n" in said
    assert f"--config-dir '{name}' --config-name" in (here / name / "config.yaml").read_text()
    status = here / name / "status.json"
    status.write_text(json.dumps({"state": "running"}))
    assert report.run([name]) == 0
    assert f"; 'resume={name}' continues it" in capsys.readouterr().out


def test_a_line_break_in_a_folders_name_ends_no_comment(here: Path) -> None:
    RunFolder(here / "a\nsteps: 9").path.mkdir()
    RunFolder(here / "a\nsteps: 9").write_config({"steps": 2})
    saved = yaml.safe_load((here / "a\nsteps: 9" / "config.yaml").read_text())
    assert saved == {"steps": 2}

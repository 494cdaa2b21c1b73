"""Names of files and folders that no command can open: too long, closed, impossible."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from wgan_cli.commands import evaluate, report, sample, search, train
from wgan_cli.commands.composition import quoted

LONG = "x" * 300
SEARCH = "metric: wasserstein/exact\nspace:\n  clip: {low: 0.01, high: 0.02}\n"


def of(key: str, name: str) -> str:
    return f"{key}={quoted(name)}"


def answer(module: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and stderr of a command; argparse's own refusals count as any other."""
    try:
        code = module.run(words)
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.run([*TINY, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.mark.parametrize(
    ("module", "words", "code"),
    [
        (sample, [LONG], 4),
        (evaluate, [LONG], 4),
        (report, [LONG], 4),
        (sample, ["RUN", "--out", f"{LONG}/a.png"], 2),
        (sample, ["RUN", "--out", f"{LONG}.png"], 7),
        (sample, ["RUN", "--out", "a\0b.png"], 2),
        (sample, ["a\0b"], 2),
        (evaluate, ["RUN", "--checkpoint", LONG], 4),
        (report, ["RUN", "--out", LONG], 7),
        (report, ["RUN", "--out", "a\0b"], 2),
        (report, ["file/x"], 4),
        (sample, ["file/x"], 4),
        (train, [of("resume", LONG)], 4),
        (train, [of("resume", "file/x")], 4),
        (train, [of("resume", "a\0b")], 2),
        (train, ["--config-dir", LONG], 2),
        (train, ["--config-dir", LONG, "--help"], 2),
        (train, ["--config-name", LONG], 2),
        (train, ["--config-name", "a\0b"], 2),
        (train, [of("hydra.run.dir", LONG)], 7),
        (train, [of("hydra.run.dir", "file/x")], 7),
        (train, [of("hydra.run.dir", "a\0b")], 2),
        (train, [of("hydra.run.dir", "a\udcffb"), "resume=auto"], 2),
        (train, ["-m", of("hydra.sweep.dir", LONG)], 7),
        (train, ["-m", of("hydra.sweep.dir", "a\udcffb")], 2),
        (train, ["dataset=array", of("dataset.path", LONG)], 3),
        (train, ["dataset=array", of("dataset.path", "a\0b")], 2),
        (train, ["dataset=image_folder", of("dataset.root", LONG)], 3),
        (train, ["dataset=image_folder", of("dataset.root", "a\udcffb")], 2),
        (train, ["--config-dir", "own", "experiment=named"], 2),
        (train, ["--config-dir", "own", "experiment=foldered"], 2),
        (search, [LONG], 2),
        (search, [f"{LONG}.yaml"], 2),
        (search, ["space.yaml", "--trials", "1", "--dir", LONG], 7),
        (search, ["space.yaml", "--trials", "1", "--dir", "a\udcffb"], 2),
        (search, ["space.yaml", "--trials", "1", "--dir", "a\0b"], 2),
    ],
)
def test_an_impossible_name_is_answered_in_plain_words(
    module: Any,
    words: list[str],
    code: int,
    here: Path,
    trained_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "file").write_text("")
    (here / "space.yaml").write_text(SEARCH)
    (here / "own" / "experiment").mkdir(parents=True)
    for name, line in {
        "named": 'dataset:\n  root: "a\\0b"',
        "foldered": 'hydra:\n  run:\n    dir: "a\\ud800b"',
    }.items():
        (here / "own" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{line}\n")
    words = [str(trained_run) if word == "RUN" else word for word in words]
    before = sorted(here.rglob("*"))
    got, said = answer(module, [*words, *(TINY if module in (train, search) else [])], capsys)
    assert (got, "Traceback" in said) == (code, False), said
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("module", [sample, evaluate, report])
def test_a_folder_that_another_user_has_closed_is_exit_4(
    module: Any, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(path: Path, **how: Any) -> Any:
        if "shut" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **how)

    # For root no folder is closed.
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", closed)
    assert module.run(["shut/run"]) == 4
    assert "shut/run cannot be read: Permission denied." in capsys.readouterr().err
    assert os.listdir(here) == []  # noqa: PTH208

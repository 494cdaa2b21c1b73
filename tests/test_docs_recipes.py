"""docs/recipes.md lists every recipe, and the settings that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wgan_cli.commands.train import run
from wgan_cli.config import configs_folder

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_every_recipe_is_in_the_table_and_no_other():
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {path.stem for path in (configs_folder() / "experiment").glob("*.yaml")}


@pytest.mark.parametrize("line", re.findall(r"^    wgan-train (.+)$", PAGE, re.MULTILINE))
def test_every_command_composes(line: str, here: Path, capsys: pytest.CaptureFixture[str]):
    words = [word for word in line.split() if word != "-m"]
    single = [re.sub(r"=([^,\[]+),.*", r"=\1", word) for word in words]
    assert run([*single, "--cfg", "job"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "setting",
    [
        word
        for row in PAGE.splitlines()
        if row.startswith("| `") and "=" in row.split("|")[1]
        for word in re.findall(r"`([\w.]+=[^`]+)`", row.split("|")[1])
    ],
)
def test_every_extra_is_a_setting(setting: str, here: Path, capsys: pytest.CaptureFixture[str]):
    words = ["dataset=cifar10", "optimizer=adam", setting]
    assert run([*words, "--cfg", "job"]) == 0, capsys.readouterr().err

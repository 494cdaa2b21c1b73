"""CONTRIBUTING.md: each recipe's code works as it stands, in a copy of the package."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(New file|At the end of) `([^`]+)`:\n\n```\w+\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^Train with it:\n\n```bash\nwgan-train (.*?)\n```$", re.M | re.S)
RECIPES = {
    section.partition("\n")[0]: section
    for section in re.split(r"^#{2,3} ", PAGE, flags=re.M)
    if BLOCK.search(section)
}
# The recipe's tests, then the command: one process, as importing torch takes long.
TRY = """
import sys, pytest
code = pytest.main(["-q", "-n", "0", "-c", "/dev/null", "-p", "no:cacheprovider", *{tests}])
from wgan_cli.commands.train import run
sys.exit(code or run({words}))
"""


def apply(recipe: str, copy: Path) -> list[str]:
    """Apply a recipe's blocks to a copy of the package; returns its test files."""
    for name in ("wgan_cli", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignored)
    (copy / "tests").mkdir()
    tests = []
    for how, name, code in BLOCK.findall(RECIPES[recipe]):
        path = copy / name
        assert path.exists() == (how == "At the end of"), name
        with path.open("a", encoding="utf-8") as file:
            file.write(f"\n\n{code}" if how == "At the end of" else code)
        if name.startswith("tests/"):
            tests.append(name)
    return tests


def python(code: str, copy: Path, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def command_of(recipe: str, *more: str) -> list[str]:
    (line,) = COMMAND.findall(RECIPES[recipe])
    words = shlex.split(line)
    tiny = [word for word in TINY if recipe != "A linear generator" or "generator" not in word]
    return [*tiny, *words, *more]


def test_the_page_has_recipes_for_every_kind_of_component() -> None:
    assert {"Lion", "Adafactor", "Least squares", "R1", "Density"} <= set(RECIPES)
    assert {"A linear generator", "Two moons", "Comma-separated values"} <= set(RECIPES)
    assert len(COMMAND.findall(PAGE)) == len(RECIPES)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_recipe_passes_its_tests_and_trains(recipe: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    tests = [str(copy / name) for name in apply(recipe, copy)]
    assert tests
    words = command_of(recipe, "hydra.run.dir=run")
    python(TRY.format(tests=tests, words=words), copy, tmp_path)
    assert '"state": "finished"' in (tmp_path / "run" / "status.json").read_text()


def test_an_optimizer_with_nothing_but_settings_trains_layer_by_layer(tmp_path: Path) -> None:
    """Adafactor by the recipe gives the weights of Adafactor without any schema."""
    copy = tmp_path / "copy"
    apply("Adafactor", copy)
    words = command_of("Adafactor", "optimizer.lr=0.01", "steps=3", "metrics=[]")
    python(run_in("recipe", words), copy, tmp_path)
    shutil.copytree(copy / "configs" / "optimizer", tmp_path / "mine" / "optimizer")
    python(run_in("own", [*words, "--config-dir", "mine"]), REPOSITORY, tmp_path)
    recipe, own = (
        torch.load(tmp_path / name / "checkpoints" / "step_00000003.pt", weights_only=True)
        for name in ("recipe", "own")
    )
    for network in ("critic", "generator"):
        for name, weights in own[network].items():
            assert torch.equal(recipe[network][name], weights)


def run_in(folder: str, words: list[str]) -> str:
    words = [*words, f"hydra.run.dir={folder}"]
    return f"import sys; from wgan_cli.commands.train import run; sys.exit(run({words}))"

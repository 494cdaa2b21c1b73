"""CONTRIBUTING.md: each recipe's code works as it stands, in a copy of the package."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import TINY, exhaustive_beyond

from benchmarks.forked_commands import CommandServer

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(New file|At the end of) `([^`]+)`:\n\n```\w+\n(.*?)^```$", re.M | re.S)
COMMAND = re.compile(r"^Train with it:\n\n```bash\nwgan-train (.*?)\n```$", re.M | re.S)
RECIPES = {
    section.partition("\n")[0]: section
    for section in re.split(r"^#{2,3} ", PAGE, flags=re.M)
    if BLOCK.search(section)
}
# Python has everything imported; the package is imported anew, from the copy. The first argument is
# the copy, then follow the recipe's tests, `--` and the words of a command.
IN_A_COPY = """
import sys
copy, *words = sys.argv[1:]
for name in [name for name in sys.modules if name.partition(".")[0] == "wgan_cli"]:
    del sys.modules[name]
sys.path.insert(0, copy)
sys.dont_write_bytecode = True
tests, words = words[:words.index("--")], words[words.index("--") + 1:]
if tests:
    import pytest
    code = pytest.main(["-q", "-n", "0", "-c", "/dev/null", "-p", "no:cacheprovider", *tests])
    if code:
        sys.exit(code)
from wgan_cli.commands import train
assert train.__file__.startswith(copy), train.__file__
sys.exit(train.run(words))
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


def run_in(
    copy: Path, folder: Path, server: CommandServer, words: list[str], tests: Sequence[str] = ()
) -> None:
    """Run the tests, then `wgan-train WORDS` in the folder, both with the package in `copy`."""
    process = server.python(IN_A_COPY, [str(copy), *tests, "--", *words], folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


def command_of(recipe: str, *more: str) -> list[str]:
    (line,) = COMMAND.findall(RECIPES[recipe])
    words = shlex.split(line)
    tiny = [word for word in TINY if recipe != "A linear generator" or "generator" not in word]
    return [*tiny, *words, *more]


def test_the_page_has_recipes_for_every_kind_of_component() -> None:
    assert {"Lion", "Adafactor", "Least squares", "R1", "Density"} <= set(RECIPES)
    assert {"A linear generator", "Two moons", "Comma-separated values"} <= set(RECIPES)
    assert len(COMMAND.findall(PAGE)) == len(RECIPES)


# One of each kind; the others differ in what they add, not in where.
USUAL = ["Adafactor", "Comma-separated values", "Density", "R1"]


@pytest.mark.parametrize("recipe", exhaustive_beyond(USUAL, sorted(RECIPES)))
def test_a_recipe_passes_its_tests_and_trains(
    recipe: str, tmp_path: Path, command_server: CommandServer
) -> None:
    copy = tmp_path / "copy"
    tests = [str(copy / name) for name in apply(recipe, copy)]
    assert tests
    words = command_of(recipe, "hydra.run.dir=run")
    run_in(copy, tmp_path, command_server, words, tests)
    assert '"state": "finished"' in (tmp_path / "run" / "status.json").read_text()


def test_an_optimizer_with_nothing_but_settings_trains_layer_by_layer(
    tmp_path: Path, command_server: CommandServer
) -> None:
    """Adafactor by the recipe gives the weights of Adafactor without any schema."""
    copy = tmp_path / "copy"
    apply("Adafactor", copy)
    words = command_of("Adafactor", "optimizer.lr=0.01", "steps=3", "metrics=[]")
    run_in(copy, tmp_path, command_server, [*words, "hydra.run.dir=recipe"])
    shutil.copytree(copy / "configs" / "optimizer", tmp_path / "mine" / "optimizer")
    words = [*words, "hydra.run.dir=own", "--config-dir", "mine"]
    run_in(REPOSITORY, tmp_path, command_server, words)
    recipe, own = (
        torch.load(tmp_path / name / "checkpoints" / "step_00000003.pt", weights_only=True)
        for name in ("recipe", "own")
    )
    for network in ("critic", "generator"):
        for name, weights in own[network].items():
            assert torch.equal(recipe[network][name], weights)

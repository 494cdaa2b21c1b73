"""The layering: arrows run down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wgan_cli

PACKAGE = Path(wgan_cli.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
LEAVES = ("losses.py", "constraints/", "randomness.py", "models/", "data/", "metrics/")


def imports(file: str) -> set[str]:
    """Every dotted name that a file imports, wherever in it; `from a import b` gives a and a.b."""
    package = ["wgan_cli", *file.split("/")[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def offending(file: str, *forbidden: str) -> set[str]:
    return {
        name
        for name in imports(file)
        for prefix in forbidden
        if name == prefix or name.startswith(prefix + ".")
    }


def files_in(*places: str) -> list[str]:
    found = [file for file in FILES if file.startswith(places)]
    assert found
    return found


def test_the_files_of_the_design_are_there():
    for file in (
        "build.py",
        "config.py",
        "errors.py",
        "run_folder.py",
        "losses.py",
        "constraints/base.py",
        "training/trainer.py",
        "training/updates.py",
        "training/schedule.py",
        "training/checkpoint.py",
        "data/dataset.py",
        "data/feeds.py",
        "commands/train.py",
        "commands/report.py",
    ):
        assert file in FILES


@pytest.mark.parametrize(
    "file", [f for f in FILES if not f.startswith(("instantiation.py", "commands/"))]
)
def test_nothing_below_commands_but_instantiation_imports_hydra(file: str):
    assert not offending(file, "hydra")


@pytest.mark.parametrize("file", [f for f in FILES if f != "build.py"])
def test_only_build_turns_config_into_objects(file: str):
    assert not offending(file, "wgan_cli.instantiation")


@pytest.mark.parametrize("file", [f for f in FILES if f != "instantiation.py"])
def test_only_instantiation_calls_instantiate(file: str):
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        name = node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)
        assert name != "instantiate"
        assert not (isinstance(node, ast.alias) and node.name == "instantiate")


@pytest.mark.parametrize("file", files_in(*LEAVES))
def test_leaves_know_nothing_of_what_uses_them(file: str):
    above = ("training", "commands", "build", "run_folder", "config", "schema")
    assert not offending(file, "hydra", "omegaconf", *(f"wgan_cli.{name}" for name in above))


@pytest.mark.parametrize("file", ["losses.py", *files_in("constraints/", "models/", "metrics/")])
def test_components_do_not_know_each_other(file: str):
    own = "wgan_cli." + file.split("/")[0].removesuffix(".py")
    others = {"losses", "constraints", "models", "data", "metrics"}
    others.discard(own.removeprefix("wgan_cli."))
    assert not offending(file, *(f"wgan_cli.{name}" for name in others))


@pytest.mark.parametrize("file", files_in("training/"))
def test_training_knows_neither_commands_nor_build(file: str):
    assert not offending(file, "wgan_cli.commands", "wgan_cli.build", "hydra")


@pytest.mark.parametrize("file", [f for f in FILES if not f.startswith(("commands/", "__main__"))])
def test_only_commands_import_commands(file: str):
    assert not offending(file, "wgan_cli.commands")


@pytest.mark.parametrize("file", files_in("report/"))
def test_reports_know_run_folders_and_settings_alone(file: str):
    below = (
        "report",
        "search",
        "config",
        "validation",
        "errors",
        "environment",
        "files",
        "run_folder",
        "run_status",
    )
    own = {name for name in imports(file) if name.startswith("wgan_cli.")}
    assert not {name for name in own if name.split(".")[1] not in below}


@pytest.mark.parametrize(
    "file",
    [
        *("config.py", "rules.py", "errors.py", "commands/help.py", "commands/report.py"),
        *files_in("schema/", "report/"),
    ],
)
def test_what_answers_at_once_imports_no_torch(file: str):
    assert not offending(file, "torch", "torchvision")


@pytest.mark.parametrize("file", files_in("search/"))
def test_a_search_knows_runs_by_their_folders_alone(file: str):
    above = ("build", "config", "rules", "training", "evaluation")
    assert not offending(file, "torch", *(f"wgan_cli.{name}" for name in above))


def test_config_and_help_load_neither_torch_nor_hydra_even_indirectly():
    code = (
        "import sys, wgan_cli.config, wgan_cli.schema, wgan_cli.errors, wgan_cli.commands.help\n"
        "import wgan_cli.commands.train, wgan_cli.commands.search\n"
        "print([name for name in ('torch', 'torchvision', 'hydra') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_there_is_no_drawer_for_odds_and_ends():
    names = {Path(file).stem for file in FILES}
    assert not names & {"utils", "util", "helpers", "misc", "common"}

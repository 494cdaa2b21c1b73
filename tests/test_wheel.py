from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

TREE = Path(__file__).parent.parent
CONFIGS = sorted(path.relative_to(TREE) for path in (TREE / "configs").rglob("*.yaml"))


def pip(*words: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree. pip fetches the build backend, as in any installation."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("wgan_cli", "configs"):
        shutil.copytree(TREE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / name, tree / name)
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder / "dist"), str(tree))
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--quiet", "--no-deps", "--target", str(folder), str(wheel))
    return folder


def from_elsewhere(installed: Path, here: Path, *words: str) -> str:
    """What a command prints that finds the installed package only, in a folder apart."""
    answer = subprocess.run(
        [sys.executable, *words],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_wheel_holds_every_config_and_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "wgan_cli/configs/train.yaml" in names
    assert {f"wgan_cli/{path.as_posix()}" for path in CONFIGS} <= names
    modules = {path.relative_to(TREE).as_posix() for path in (TREE / "wgan_cli").rglob("*.py")}
    assert modules <= names
    assert "wgan_cli/report/writers/page.html.j2" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"wgan_cli"}


def test_the_wheel_names_its_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "wgan-train" in text
    assert "wgan-sample" in text
    assert "wgan-report" in text
    assert "wgan-search" in text


def test_the_installed_package_uses_its_own_configs(installed: Path, tmp_path: Path) -> None:
    code = "from wgan_cli.config import configs_folder; print(configs_folder())"
    folder = Path(from_elsewhere(installed, tmp_path, "-c", code).strip())
    assert folder.samefile(installed / "wgan_cli" / "configs")


def test_the_installed_command_has_its_help(installed: Path, tmp_path: Path) -> None:
    page = from_elsewhere(installed, tmp_path, "-m", "wgan_cli", "--help")
    for path in CONFIGS:
        if len(path.parts) == 3 and path.parent.name != "search":
            assert f"    {path.stem} " in page


def test_the_installed_command_composes_its_own_configs(installed: Path, tmp_path: Path) -> None:
    # A mark that the tree's own configs do not have.
    shipped = installed / "wgan_cli" / "configs" / "loss" / "hinge.yaml"
    original = shipped.read_text()
    shipped.write_text(original.replace("name: hinge", "name: hinge_as_installed"))
    try:
        words = ["-m", "wgan_cli", "loss=hinge", "clip=0.2", "--cfg", "job", "--resolve"]
        shown = yaml.safe_load(from_elsewhere(installed, tmp_path, *words))
    finally:
        shipped.write_text(original)
    assert shown["loss"]["name"] == "hinge_as_installed"
    assert shown["clip"] == 0.2
    assert list(tmp_path.iterdir()) == []

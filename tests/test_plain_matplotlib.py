"""Pictures are drawn with matplotlib's own settings, whatever folder and environment say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRAW = """
import os
import numpy as np
from wgan_cli.pictures import as_png, weight_histogram
from wgan_cli.report.writers import page
import sys
before = dict(os.environ)
sys.stdout.buffer.write(as_png(weight_histogram(np.linspace(-1, 1, 99), 1.0)))
assert os.environ == before
assert os.path.exists("matplotlibrc") == ("RC" in os.environ)
"""


def drawn(folder: Path, **env: str) -> bytes:
    """The PNG that a new process draws in the folder."""
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    return done.stdout


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return drawn(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("backend", ["nonsense", "module://no_package.backend_inline", "TkAgg"])
def test_a_backend_of_a_notebook_does_not_matter(
    backend: str, plain: bytes, tmp_path: Path
) -> None:
    assert drawn(tmp_path, MPLBACKEND=backend) == plain


def test_settings_of_the_folder_and_of_the_environment_do_not_matter(
    plain: bytes, tmp_path: Path
) -> None:
    # Importing a backend's module would run its code.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("open('imported', 'w')\n")
    settings = (
        "backend: module://mine.backend\ntext.usetex: True\naxes.facecolor: red\nno.such: 1\n"
    )
    (tmp_path / "matplotlibrc").write_text(settings)
    other = tmp_path / "other"
    other.write_text(settings)
    assert drawn(tmp_path, MATPLOTLIBRC=str(other), RC="1", PYTHONPATH=_path(tmp_path)) == plain
    assert not (tmp_path / "imported").exists()


def test_settings_that_never_end_are_not_read(plain: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "matplotlibrc")
    assert drawn(tmp_path, RC="1") == plain


def _path(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))

"""README.md, CONTRIBUTING.md and docs/: the files, modules and names that they mention exist."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from wgan_cli.training.updates import Updates

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# A path, or a Python file or page alone. Most YAML files and pictures alone are those of a run.
PATH = re.compile(r"[\w.][\w./-]*\.(?:py|md)\b|[\w.-]+/[\w./-]+\.(?:yaml|png)\b")
# Where a page's path may start: in the package, tests and docs its folder is often left out.
STARTS = [ROOT / name for name in ("", "wgan_cli", "tests", "docs")]
# Files of a reader, of a run, and of LSUN.
YOURS = re.compile(r"^(my_|mine/|options/|outputs/|download\.py$)")


def text_of(page: Path) -> str:
    """A page without its fenced code and the files that its recipes add: other tests run those."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"^New file `.*$", "", text, flags=re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path):
    paths = [path for path in PATH.findall(text_of(page)) if not YOURS.search(path)]
    missing = [path for path in paths if not any((start / path).exists() for start in STARTS)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_dotted_name_exists(page: Path):
    for name in re.findall(r"\b(?:wgan_cli|benchmarks)(?:\.\w+)+", text_of(page)):
        module, _, last = name.rpartition(".")
        path = ROOT / name.replace(".", "/")
        if not (path.with_suffix(".py").exists() or path.is_dir()):
            assert hasattr(importlib.import_module(module), last), name


def test_the_picture_of_a_batch_is_in_the_order_of_the_code():
    """docs/architecture.md shows the steps of `critic_update` one below the other."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"^ {4}│ {5}[├└]─ (.+?)  ", text, re.M)
    assert len(steps) == 9
    code = inspect.getsource(Updates.critic_update).split('"""')[2]
    for name in re.findall(r"(\w+)(?=,|$)", "\n".join(steps), re.M):
        assert name in code
        code = code[code.index(name) :]

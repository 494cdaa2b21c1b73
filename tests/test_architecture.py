"""The layering: imports run down only, in one order, without circles, and every file is short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wgan_cli

PACKAGE = Path(wgan_cli.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

# From the bottom to the top. A file may import its own room and every room on a lower line; rooms
# on one line do not know each other. TYPE_CHECKING and imports inside functions count too.
LEVELS = (
    ("errors", "terminal_text", "cores", "operating_system", "process_control"),
    (
        "files",
        "guard",
        "float64",
        "untrusted_files",
        "randomness",
        "flat_tensors",
        "stop_signals",
        "out_of_memory",
        "gpu_facts",
        "losses",
        "optimizers",
        "plain_matplotlib",
        "waiting",
        "progress_bar",
        "plain_optimizers",
    ),
    ("locks",),
    ("pictures", "models", "data", "metrics", "constraints"),
    ("schema",),
    ("validation", "run_status"),
    ("rules", "run_folder", "acceleration"),
    ("config", "distributed", "evaluation"),
    ("machine", "loggers", "search"),
    ("training", "report"),
    ("build",),
    ("commands",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
COMPONENTS = ("losses", "optimizers", "constraints", "models", "data", "metrics")
LONGEST_FILE = 300


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


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


def imported_files(file: str) -> set[str]:
    """The package's files among them; a room's `__init__` only if nothing else of it is named."""
    named = set()
    for name in imports(file):
        path = "/".join(name.split(".")[1:])
        named |= {found for found in (f"{path}.py", f"{path}/__init__.py") if found in FILES}
    inner = {found for found in named if not found.endswith("__init__.py")}
    return {
        found
        for found in named - {file}
        if found in inner or not any(f.startswith(found.removesuffix("__init__.py")) for f in inner)
    }


IMPORTED = {file: imported_files(file) for file in FILES}


def importing(*modules: str) -> set[str]:
    """The files that import any of these modules, or something inside one."""
    return {
        file
        for file in FILES
        for name in imports(file)
        if any(name == module or name.startswith(f"{module}.") for module in modules)
    }


def test_every_room_has_a_level():
    assert {room_of(file) for file in FILES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])
def test_imports_run_down(file: str):
    for other in IMPORTED[file] - {"__init__.py"}:
        same = room_of(other) == room_of(file)
        assert same or LEVEL[room_of(other)] < LEVEL[room_of(file)], other


def test_no_file_imports_itself_through_others():
    reached = {file: set(others) for file, others in IMPORTED.items()}
    for middle in FILES:
        for file in FILES:
            if middle in reached[file]:
                reached[file] |= reached[middle]
    assert [file for file in FILES if file in reached[file]] == []


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_read_in_one_sitting(file: str):
    assert len((PACKAGE / file).read_text().splitlines()) <= LONGEST_FILE


def test_components_do_not_know_each_other():
    for room in COMPONENTS:
        others = [f"wgan_cli.{other}" for other in COMPONENTS if other != room]
        assert room not in {room_of(file) for file in importing(*others)}


def test_only_commands_and_build_know_hydra():
    assert {room_of(file) for file in importing("hydra")} <= {"commands", "build"}
    assert {room_of(file) for file in importing("wgan_cli.build.instantiation")} == {"build"}


def test_leaves_do_not_know_config_files():
    leaves = {*COMPONENTS, "randomness", "files", "flat_tensors", "acceleration", "distributed"}
    assert not leaves & {room_of(file) for file in importing("omegaconf", "wgan_cli.schema")}


def test_only_instantiation_calls_instantiate():
    for file in set(FILES) - {"build/instantiation.py"}:
        for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
            names = {getattr(node, key, None) for key in ("id", "attr", "name")}
            assert "instantiate" not in names, file


def test_reports_and_searches_need_no_torch():
    rooms = {room_of(file) for file in importing("torch", "torchvision")}
    assert not rooms & {"report", "search", "schema", "config", "rules", "errors", "run_status"}


def test_only_one_file_imports_matplotlib_and_none_its_global_state():
    assert importing("matplotlib") == {"plain_matplotlib.py"}
    assert not importing("matplotlib.pyplot")


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


# Names that only POSIX systems have, or that do something else on Windows.
POSIX_ONLY = {
    "os": (
        r"fork\w*|kill\w*|[gs]ete?[ug]id|[gs]etp?[gs]id|statvfs|p?writev?|pread|fchmod|mkfifo|uname"
        r"|sysconf|nice|getloadavg|wait\w*|W[A-Z]+|O_(NONBLOCK|CLOEXEC|DIRECTORY|NOFOLLOW)|fsync"
    ),
    "signal": r"SIG(?!INT$|TERM$|_DFL$|_IGN$)\w+|pthread_\w+|sig\w*(?<!signal)|alarm|setitimer",
    "errno": "EDQUOT|ENOTSUP|EOPNOTSUPP",
    "shlex": "join|quote",
    "sys": "platform",
}
POSIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty")


def test_what_differs_between_systems_is_in_two_files() -> None:
    used = {
        file: f"{node.value.id}.{node.attr}"
        for file in FILES
        for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and re.fullmatch(POSIX_ONLY.get(node.value.id, ""), node.attr)
    }
    assert set(used) == {"operating_system.py", "process_control.py"}, used
    assert importing(*POSIX_MODULES) == {"operating_system.py"}

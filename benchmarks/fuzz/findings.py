"""What is wrong with the result of a case, each in one sentence."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import watching
from benchmarks.fuzz.contents import TRACE
from benchmarks.fuzz.running import CACHE, HOME, TEMPORARY, Result

# Those of the README; 1 has a rule of its own.
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7, 8, 75, 130}
# Nothing was started.
REFUSED = {2, 3, 4, 8}
_CRASH = re.compile(r"Traceback \(most recent call last\)|unexpected error|Exception ignored")
_LOGS = ("train.log", "console.log")
# Python's `platform` asks for the processor.
_PROGRAMS = ("uname -p",)
_DEVICES = ("/dev/", "/proc/")
# What records a run, a sweep or a search.
_RECORDS = {"config.yaml", "status.json", "multirun.yaml", "search.yaml"}


class Finding(NamedTuple):
    """A fault: the group that it belongs to, and what happened."""

    group: str
    sentence: str


def findings_of(result: Result) -> list[Finding]:
    """Return all faults of a result."""
    parts = (_crashes, _codes, _left, _outside, _traces, _seen)
    return [Finding(*found) for part in parts for found in part(result)]


def _crashes(result: Result) -> Iterator[tuple[str, str]]:
    texts = {"stdout": result.stdout, "stderr": result.stderr}
    for name, state in result.after.items():
        path = result.folder / name
        if path.name in _LOGS and result.before.get(name) != state and path.is_file():
            texts[name] = path.read_text(errors="replace")
    for where, text in texts.items():
        if match := _CRASH.search(text):
            lines = text[match.start() :].strip().splitlines()
            last = next((line for line in lines[1:] if re.match(r"[\w.]+(:|$)", line)), lines[-1])
            files = re.findall(r'File ".*?((?:wgan_cli|site-packages)/\S+)", line (\d+)', text)
            at = ":".join(files[-1]) if files else "?"
            yield "traceback", f"{where} shows {match[0]!r}, at {at}: {last[:200]}"


def _codes(result: Result) -> Iterator[tuple[str, str]]:
    code = result.code
    if code is None:
        yield "hang", f"it still ran after {result.seconds:.0f} s"
    elif code == 1:
        many = result.case.command == "wgan-search" or "multirun.yaml" in "".join(result.after)
        if not many and not re.search(r"^(wgan-\w+: |\w)", result.stderr, re.M):
            yield "exit code", "it exited with 1 and did not say why"
    elif code not in DOCUMENTED:
        yield "exit code", f"it exited with {code}, which is not documented"


def _left(result: Result) -> Iterator[tuple[str, str]]:
    """Yield the new folders of a refused command that hold no run."""
    if result.code not in REFUSED:
        return
    new = {name for name in result.after if name not in result.before}
    for name in sorted(new):
        if result.after[name].startswith("folder") and str(Path(name).parent) not in new:
            below = {Path(other).name for other in new if other.startswith(f"{name}/")}
            if not below & _RECORDS:
                yield "left folder", f"it exited with {result.code} and left the folder {name!r}"


def _outside(result: Result) -> Iterator[tuple[str, str]]:
    before, after = result.outside
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield "outside changed", f"outside/{name} was {before.get(name)}, is {after.get(name)}"


def _traces(result: Result) -> Iterator[tuple[str, str]]:
    for name in result.after:
        if Path(name).name == TRACE:
            yield "payload", f"a payload was executed: there is {name!r}"


def _seen(result: Result) -> Iterator[tuple[str, str]]:
    """Yield what the watcher saw that a command has no business with."""
    base = result.folder.parent
    mine = [result.folder, *(base / name for name in (TEMPORARY, CACHE, HOME))]
    spare = Path(tempfile.gettempdir())
    for path in sorted(watching.changed(result.events)):
        inside = any(path == folder or folder in path.parents for folder in mine)
        # Python tries out the temporary folders if TMPDIR names none.
        tried = path.parent == spare and "TMPDIR" in result.case.surroundings.environment
        if not inside and not tried and not str(path).startswith(_DEVICES):
            yield "written elsewhere", f"{_without(base, path)} was opened for writing, or made"
    for path in sorted(watching.executed(result.events)):
        if result.folder in path.parents:
            yield "executed", f"{_without(base, path)} was imported or executed"
    for line in watching.programs(result.events):
        if result.case.command != "wgan-search" and line not in _PROGRAMS:
            yield "program", f"it started {line[:200]}"
    for address in watching.network(result.events):
        yield "network", f"it connected or bound {address}"


def _without(base: Path, path: Path) -> str:
    return str(path).replace(f"{base}/", "")

"""The fuzzer finds nothing in a few drawn cases, and sees every fault of a broken command."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.forked_commands import CommandServer, ForkedProcess
from benchmarks.fuzz.cases import KINDS, Case, draw, prepare
from benchmarks.fuzz.edited_runs import SEARCH
from benchmarks.fuzz.findings import findings_of
from benchmarks.fuzz.running import Worker

SEED, CASES = 1, 40


def test_drawn_cases_show_no_fault(command_server: CommandServer, tmp_path: Path):
    worker = Worker(command_server, tmp_path.resolve())
    # A Python of its own takes seconds, and a search makes one for each trial.
    drawn = (draw(SEED, number) for number in range(2 * CASES))
    quick = (case for case in drawn if not case.surroundings.fresh and case.copied != SEARCH)
    cases = list(itertools.islice(quick, CASES))
    assert {case.kind for case in cases} == set(KINDS)
    found = {case.number: findings_of(worker.run(case)) for case in cases}
    assert {number: findings for number, findings in found.items() if findings} == {}


class BrokenCommands(CommandServer):
    """Runs `code` in place of every command."""

    def __init__(self, server: CommandServer, code: str) -> None:
        self._server, self._code = server, code

    def start(self, command: str, *arguments: Any, **named: Any) -> ForkedProcess:
        return self._server.python(self._code, *arguments, **named)


TRACEBACK = "Traceback (most recent call last)"


@pytest.mark.parametrize(
    ("code", "groups"),
    {
        "open('mine', 'w').write('x')": [],
        f"print('{TRACEBACK}')": ["traceback"],
        "1 / 0": ["traceback"],
        "open('train.log', 'w').write('unexpected error: x')": ["traceback"],
        "import sys; sys.exit(9)": ["exit code"],
        "import sys; sys.exit(1)": ["exit code"],
        "import sys; sys.exit('wgan-train: it said why.')": [],
        "import os; os.kill(os.getpid(), 11)": ["exit code"],
        "import time; time.sleep(60)": ["hang"],
        "import os, sys; os.makedirs('outputs/day/time'); sys.exit(2)": ["left folder"],
        "import os, sys; os.mkdir('run'); open('run/config.yaml', 'w'); sys.exit(3)": [],
        "open('../outside/canary', 'a').write('x')": ["outside changed", "written elsewhere"],
        "import os; os.chmod('../outside', 0o777)": ["written elsewhere"],
        "open('../beside', 'w').write('x')": ["written elsewhere"],
        "open('/dev/null', 'w').write('x')": [],
        "import os; os.mkdir('executed')": ["payload"],
        "import sys; sys.path.insert(0, '.'); import decoy": ["executed", "payload"],
        "import subprocess; subprocess.run(['true'])": ["program"],
        "import socket; socket.socket().bind(('127.0.0.1', 0))": ["network"],
    }.items(),
)
def test_a_broken_commands_faults_are_found(
    code: str, groups: list[str], command_server: CommandServer, tmp_path: Path
):
    worker = Worker(BrokenCommands(command_server, code), tmp_path.resolve(), limit=3.0)
    findings = findings_of(worker.run(Case(0, "command lines", "wgan-train", [])))
    assert sorted({group for group, _ in findings}) == groups, findings


def described(cases: Iterable[Case]) -> dict[int, tuple[str, ...]]:
    return {
        case.number: (case.kind, case.shown(), str(case.surroundings), *map(str, case.edits))
        for case in cases
    }


def test_a_seed_and_a_number_give_the_same_case():
    numbers = range(300)
    first = described(draw(5, number) for number in numbers)
    assert first == described(draw(5, number) for number in reversed(numbers))
    assert len(set(first.values())) > 250
    assert first != described(draw(6, number) for number in numbers)


def test_a_seed_and_a_number_give_the_same_files(tmp_path: Path):
    contents = []
    for name in ("one", "other"):
        for number in range(100):
            case = draw(5, number)
            if case.kind == "own configs":
                prepare(case, folder := tmp_path / name / str(number))
                for path in sorted(folder.rglob("*.yaml")):
                    if path.is_file() and path.stat().st_size < 10_000:
                        contents.append((name, path.name, path.read_bytes()))
    half = len(contents) // 2
    assert half > 10
    assert [rest for _, *rest in contents[:half]] == [rest for _, *rest in contents[half:]]

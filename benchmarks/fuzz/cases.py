"""Cases: what is run, on which files, and in what surroundings; drawn from (seed, number)."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from benchmarks.fuzz.command_lines import command_line
from benchmarks.fuzz.contents import Edit
from benchmarks.fuzz.edited_runs import edited_run
from benchmarks.fuzz.own_configs import own_config

# Of this many cases, one runs in a Python of its own.
FRESH = 100
STREAMS = ("kept", "closed", "a pipe without a reader", "a pipe that takes one line", "/dev/full")


@dataclass(frozen=True)
class Surroundings:
    """The streams (of STREAMS), environment and umask of a process.

    A variable that is None is not set. A `fresh` process is the installed script, not a fork.
    """

    stdout: str = "kept"
    stderr: str = "kept"
    environment: Mapping[str, str | None] = field(default_factory=dict)
    umask: int | None = None
    fresh: bool = False

    def __str__(self) -> str:
        parts = [f"{name} is {how}" for name, how in self.streams.items() if how != "kept"]
        parts += [f"{name}={value}" for name, value in self.environment.items()]
        parts += [] if self.umask is None else [f"umask {self.umask:o}"]
        return ", ".join([*parts, *(["a fresh Python"] if self.fresh else [])])

    @property
    def streams(self) -> dict[str, str]:
        """What stdout and stderr are."""
        return {"stdout": self.stdout, "stderr": self.stderr}


@dataclass(frozen=True)
class Case:
    """A command, the honest folder that it finds a copy of, and the edits made before it runs."""

    number: int
    kind: str
    command: str
    words: list[str]
    edits: list[Edit] = field(default_factory=list)
    # The name of an honest folder (see `edited_runs`), or None.
    copied: str | None = None
    surroundings: Surroundings = field(default_factory=Surroundings)

    def shown(self) -> str:
        """Return the command as a shell would take it; what no terminal can show is escaped."""
        line = shlex.join([self.command, *self.words])
        return line.encode("unicode_escape" if not line.isprintable() else "utf-8").decode()


def draw(seed: int, number: int) -> Case:
    """Return a case, the same for the same numbers."""
    random = Random(f"{seed}:{number}")
    kind = random.choice(sorted(KINDS))
    case = KINDS[kind](random, number)
    if random.randrange(FRESH) == 0 and case.command != "wgan-search":
        case = replace(case, surroundings=replace(case.surroundings, fresh=True))
    return case


def _words(random: Random, number: int) -> Case:
    command, words = command_line(random)
    return Case(number, "command lines", command, words)


def _own(random: Random, number: int) -> Case:
    return Case(number, "own configs", *own_config(random))


def _edited(random: Random, number: int) -> Case:
    return Case(number, "edited runs", *edited_run(random))


def _streams(random: Random, number: int) -> Case:
    case = random.choice([_words, _edited])(random, number)
    stdout, stderr = random.choices(STREAMS, weights=[3, 1, 1, 1, 1], k=2)
    draw = random.random()
    table = _BACKENDS if draw < 0.03 else _VARIABLES if draw < 0.4 else [{}]
    environment = random.choice(table)
    surroundings = Surroundings(
        stdout,
        stderr,
        environment=environment,
        umask=random.choice([None] * 7 + [0o777]),
        fresh="MPLBACKEND" in environment,
    )
    return replace(case, kind="odd streams", surroundings=surroundings)


# matplotlib reads MPLBACKEND when it is imported, so that it takes a fresh Python: it is rare.
_BACKENDS: list[dict[str, str | None]] = [
    {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    {"MPLBACKEND": "nonsense"},
]
_VARIABLES: list[dict[str, str | None]] = [
    {"HOME": None},
    {"HOME": "/nowhere"},
    {"TMPDIR": "/nowhere"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1:strict"},
    {"COLUMNS": "1"},
    {"COLUMNS": "0"},
    {"COLUMNS": "-5"},
    {"COLUMNS": "x"},
    {"LINES": "x"},
    {"TERM": "dumb"},
    {"NO_COLOR": "1"},
    {"USER": None, "LOGNAME": None},
    {"OMP_NUM_THREADS": "x"},
    {"HYDRA_FULL_ERROR": "x"},
    {"CUDA_VISIBLE_DEVICES": "x"},
    {"PATH": None},
    {"TZ": "x"},
    {"XDG_CACHE_HOME": "/dev/null"},
    {"RANK": "x"},
    {"SLURM_JOB_ID": "x"},
]
KINDS: dict[str, Callable[[Random, int], Case]] = {
    "command lines": _words,
    "own configs": _own,
    "edited runs": _edited,
    "odd streams": _streams,
}


def prepare(case: Case, folder: Path) -> None:
    """Make the case's edits in its folder."""
    for edit in case.edits:
        edit.make(folder)

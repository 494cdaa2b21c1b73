"""Answers to invalid commands: python -m benchmarks.refusals.

Runs each row of `benchmarks.bad_commands` as a separate process in an empty folder. Prints the wall
time, the CPU time, the exit code and the answer. A row fails if it takes 3 seconds or more to exit
with code 2, or 6 seconds to exit otherwise; if it has another exit code, lacks a required text or
shows a traceback; or if it leaves anything in the folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bad_commands import BAD_COMMANDS, BadCommand, Files
from wgan_cli.errors import ConfigError

CONFIG_LIMIT, LIMIT = 3.0, 6.0
PROGRAM = Path(sys.executable).with_name("wgan-train")


def main() -> int:
    """Print a row for each command; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("rows", nargs="*", help="only rows whose name contains one of these texts")
    wanted = parser.parse_args().rows
    chosen = {
        what: bad
        for what, bad in BAD_COMMANDS.items()
        if not wanted or any(part in what for part in wanted)
    }
    print(f"{'seconds':>7} {'CPU':>5} {'exit':>4}  what, and the answer's last line")
    missed: dict[str, list[str]] = {}
    slowest = {2: 0.0, 3: 0.0}
    for what, bad in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds, cpu, answer = run(bad, Path(folder))
            faults = faults_of(bad, seconds, answer, Path(folder))
        mark = "*" if faults else " "
        last = (answer.stderr.splitlines() or [""])[-1]
        print(f"{seconds:7.2f} {cpu:5.2f} {answer.returncode:4d}{mark} {what}: {last}", flush=True)
        kind = 2 if bad.code == ConfigError.exit_code else 3
        slowest[kind] = max(slowest[kind], seconds)
        if faults:
            missed[what] = faults
    busy = f"{os.getloadavg()[1]:.1f} processes on {os.cpu_count()} cores in the last 5 minutes"
    print(f"\n{len(chosen)} commands, the slowest {slowest[2]:.2f} s to exit with 2 and")
    print(f"{slowest[3]:.2f} s to exit otherwise; {busy}")
    for what, faults in missed.items():
        print(f"* {what}: {', '.join(faults)}")
    return 1 if missed else 0


def run(bad: BadCommand, folder: Path) -> tuple[float, float, subprocess.CompletedProcess[str]]:
    """Run a command in an empty folder; return wall seconds, CPU seconds and its answer."""
    write(bad.files, folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    before, start = _cpu(), time.perf_counter()
    answer = subprocess.run(
        [str(PROGRAM), *bad.words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return time.perf_counter() - start, _cpu() - before, answer


def write(files: Files, folder: Path) -> None:
    """Create the files and their folders."""
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def wrongs_of(bad: BadCommand, code: int, stderr: str, folder: Path) -> list[str]:
    """Return what is wrong with an answer, except for its time."""
    wrongs = [] if code == bad.code else [f"exit {code}, not {bad.code}"]
    said = (part.replace("{here}", str(folder)) for part in bad.says)
    wrongs += [f"does not say {part!r}" for part in said if part not in stderr]
    lines = stderr.splitlines()
    if "Traceback" in stderr or "HYDRA_FULL_ERROR" in stderr:
        wrongs.append("shows a traceback")
    elif not lines or not lines[-1].startswith("wgan-train: ") or len(stderr) > 700:
        wrongs.append("is not one or two sentences")
    left = {str(path.relative_to(folder)) for path in folder.rglob("*")} - _made(bad.files)
    return [*wrongs, *(f"leaves {name}" for name in sorted(left))]


def faults_of(
    bad: BadCommand, seconds: float, answer: subprocess.CompletedProcess[str], folder: Path
) -> list[str]:
    """Return what is wrong with an answer, including its time."""
    wrongs = wrongs_of(bad, answer.returncode, answer.stderr, folder)
    limit = CONFIG_LIMIT if bad.code == ConfigError.exit_code else LIMIT
    return [*wrongs, *([f"takes {seconds:.2f} s, not {limit:g}"] if seconds >= limit else [])]


def _made(files: Files) -> set[str]:
    paths = [Path(name) for name in files]
    return {str(part) for path in paths for part in (path, *path.parents)}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())

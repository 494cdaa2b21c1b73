"""The cost of starting: python -m benchmarks.startup [--mnist FOLDER] [--repeats 5].

Prints medians over new processes: wall time, CPU time of all threads, and peak resident memory.
`--mnist` is a folder that already holds MNIST.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """A process's wall seconds, CPU seconds, peak GiB, and seconds until its first step is done."""

    wall: float
    cpu: float
    resident: float
    first_step: float


def main() -> None:
    """Measure, and print a table with the target of each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        _child(*arguments.child)
    rows = [_row("wgan-train --help", arguments.repeats, "--help", wall=1.0)]
    rows.append(_row("wgan-train steps=2", arguments.repeats, "steps=2", wall=8.0, first_step=5.0))
    if arguments.mnist is not None:
        words = ["steps=2", "dataset=mnist", f"dataset.root={arguments.mnist.absolute()}"]
        rows.append(_row("dataset=mnist", arguments.repeats, *words, resident=1.5))
    print(f"{'':<20}{'wall s':>14}{'CPU s':>14}{'first step s':>14}{'resident GiB':>14}")
    print("\n".join(rows))


def _row(name: str, repeats: int, *words: str, **targets: float) -> str:
    costs = [_measured(words) for _ in range(repeats)]
    cells = []
    for figure in ("wall", "cpu", "first_step", "resident"):
        median = statistics.median(getattr(cost, figure) for cost in costs)
        target = f" (< {targets[figure]:g})" if figure in targets else ""
        cells.append(f"{median:.2f}{target}" if median else "")
    return f"{name:<20}" + "".join(f"{cell:>14}" for cell in cells)


def _measured(words: tuple[str, ...]) -> Cost:
    """Run `wgan-train` with these overrides in a new process and folder."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "first-step")
        here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "benchmarks.startup", "--child", str(note), *words]
        if "--help" in words:
            # What the console script does: the note of a first step would import torch.
            code = "from wgan_cli.commands.train import main; main()"
            command = [sys.executable, "-c", code, *words]
        quiet = subprocess.DEVNULL
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=here, stdout=quiet, stderr=quiet)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"wgan-train {' '.join(words)} ended with {process.returncode}.")
        unit = 1 if sys.platform == "darwin" else 1024
        first_step = float(note.read_text(encoding="utf-8")) - started if note.exists() else 0.0
        resident = used.ru_maxrss * unit / 2**30
        return Cost(wall, used.ru_utime + used.ru_stime, resident, first_step)


def _child(note: str, *words: str) -> None:
    """Run the command, and record when its first step is done."""
    # Import here: a new process counts its parent's resident memory as its own.
    from wgan_cli.commands import train
    from wgan_cli.training.trainer import Trainer

    step = Trainer.train_step

    def noting(trainer: Trainer) -> None:
        step(trainer)
        if trainer.step == 1:
            Path(note).write_text(str(time.monotonic()), encoding="utf-8")

    Trainer.train_step = noting  # type: ignore[method-assign, assignment]
    sys.exit(train.run(words))


if __name__ == "__main__":
    main()

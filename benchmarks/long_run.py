"""Checks that a long run does not grow: its memory, its open files and what it writes.

    python -m benchmarks.long_run [steps=100000] [OVERRIDE ...]

This trains a tiny network in a separate process, inspects the process after 1,000 steps and ten
more times, and prints a table, also as JSON. From 1,000 steps on, memory must stay within 5%, the
number of open files constant, and event files must grow by a constant number of bytes per step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from wgan_cli.run_status import read_status

TINY = (
    "batch_size=16",
    "n_critic=1",
    "latent_dim=4",
    "threads=1",
    "device=cpu",
    "model.generator.width=8",
    "model.critic.width=8",
)
_FIRST = 1000


@dataclass(frozen=True)
class Look:
    """Measurements of the process and its run folder after `step` generator updates."""

    step: int
    seconds: float
    resident_mib: float
    open_files: int
    event_mib: float
    metrics_mib: float


def main(words: Sequence[str]) -> None:
    """Run, measure, and print the results."""
    steps = int(dict(word.split("=", 1) for word in words if "=" in word).get("steps", 100_000))
    others = [word for word in words if not word.startswith("steps=")]
    with tempfile.TemporaryDirectory() as folder:
        looks = watch(Path(folder) / "run", [*TINY, f"steps={steps}", *others], steps)
    print(f"{'step':>8} {'seconds':>8} {'RSS MiB':>8} {'files':>6} {'events MiB':>11} {'jsonl':>7}")
    for look in looks:
        print(
            f"{look.step:>8} {look.seconds:>8.0f} {look.resident_mib:>8.1f} {look.open_files:>6}"
            f" {look.event_mib:>11.3f} {look.metrics_mib:>7.3f}"
        )
    print(json.dumps({**verdict(looks), "looks": [asdict(look) for look in looks]}))


def watch(run: Path, words: Sequence[str], steps: int) -> list[Look]:
    """Start the run, and measure it once at the start and ten more times."""
    command = [sys.executable, "-m", "wgan_cli", *words, f"hydra.run.dir={run}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started, looks = time.monotonic(), []
    due = [_FIRST, *(steps * tenth // 10 for tenth in range(1, 10)), steps - _FIRST]
    try:
        for wanted in due:
            while (step := _step(run)) < wanted:
                if process.poll() is not None:
                    raise SystemExit(f"the run ended with exit code {process.returncode}")
                time.sleep(0.1)
            looks.append(_look(process.pid, run, step, time.monotonic() - started))
        process.wait()
    finally:
        process.kill()
    return looks


def verdict(looks: Sequence[Look]) -> dict[str, float]:
    """Return the largest deviations from the first measurement, and from steady growth."""
    first, last = looks[0], looks[-1]
    rates = [
        (after.event_mib - before.event_mib) / (after.step - before.step)
        for before, after in pairwise(looks[1:])
    ]
    return {
        "resident_growth": max(look.resident_mib for look in looks) / first.resident_mib - 1,
        "open_files_more": max(look.open_files for look in looks) - first.open_files,
        "event_bytes_a_step": 2**20 * (last.event_mib - first.event_mib) / (last.step - first.step),
        "event_rate_fastest_over_slowest": max(rates) / min(rates),
    }


def _step(run: Path) -> int:
    return read_status(run).step


def _look(pid: int, run: Path, step: int, seconds: float) -> Look:
    process = Path("/proc") / str(pid)
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    events = sum(file.stat().st_size for file in (run / "tensorboard").iterdir())
    return Look(
        step=step,
        seconds=seconds,
        resident_mib=int(status["VmRSS"].split()[0]) / 2**10,
        # The minimum of several counts: the status file is open for short moments.
        open_files=min(_open_files(process) for _ in range(5)),
        event_mib=events / 2**20,
        metrics_mib=(run / "metrics.jsonl").stat().st_size / 2**20,
    )


def _open_files(process: Path) -> int:
    time.sleep(0.02)
    return len(list((process / "fd").iterdir()))


if __name__ == "__main__":
    main(sys.argv[1:])

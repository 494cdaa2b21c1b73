"""Both loops of `benchmarks.throughput` while other processes keep the machine's cores busy."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from benchmarks.timed_side import TEXTBOOK, TOOL

# It ends with the benchmark, whose id it is given, however that ends.
_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


@contextmanager
def busy_processes(count: int) -> Iterator[list[int]]:
    """Run `count` processes inside the block that compute without a pause; yield their ids."""
    with ExitStack() as stack:
        command = [sys.executable, "-c", _BUSY, str(os.getpid())]
        yield [stack.enter_context(_process(command)).pid for _ in range(count)]


@contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process inside the block, and kill it at the block's end."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # Ctrl-C then reaches this process alone, which ends the others.
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


class _Side:
    """A process that times loops; see `benchmarks.timed_side`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.facts = self._answer()
        self.loops: list[str] = self.facts.pop("loops")

    def block(self, loop: str, seconds: float) -> float:
        """Return the milliseconds per step in a block of about this length."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"loop": loop, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
        milliseconds: float = self._answer()
        return milliseconds

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            # The process has ended, and has said why.
            raise SystemExit(self._process.wait() or 1)
        return json.loads(line)


def under_load(
    words: Sequence[str], loads: Sequence[int], repeats: int, seconds: float
) -> dict[str, Any]:
    """Return the times of both loops beside each of these numbers of busy processes."""
    with ExitStack() as stack:
        sides = {
            side: _Side(
                stack.enter_context(
                    _process([sys.executable, "-m", "benchmarks.timed_side", side, *words])
                )
            )
            for side in (TOOL, TEXTBOOK)
        }
        rows = []
        for load in loads:
            blocks: dict[str, list[float]] = {}
            with busy_processes(load):
                for _ in range(repeats):
                    for side in sides.values():
                        for loop in side.loops:
                            blocks.setdefault(loop, []).append(side.block(loop, seconds))
            rows.append({"busy": load, **_compared(blocks)})
            print(_line(rows[-1]), flush=True)
    return {
        "words": list(words),
        "sides": {name: side.facts for name, side in sides.items()},
        "loads": rows,
    }


def _compared(blocks: Mapping[str, list[float]]) -> dict[str, Any]:
    """Compare the tool with the textbook loop, with as many workers as make that fastest."""
    medians = {loop: statistics.median(times) for loop, times in blocks.items()}
    best = min((loop for loop in blocks if loop != TOOL), key=medians.__getitem__)
    ratios = [book / own for book, own in zip(blocks[best], blocks[TOOL], strict=True)]
    return {
        "blocks_ms_per_step": dict(blocks),
        "ms_per_step": medians,
        "textbook": best,
        "ratio": medians[best] / medians[TOOL],
        "ratio_range": [min(ratios), max(ratios)],
    }


def _line(row: Mapping[str, Any]) -> str:
    times = ", ".join(f"{loop} {time:.2f} ms" for loop, time in row["ms_per_step"].items())
    return f"  beside {row['busy']} busy processes: {times}"


def print_table(results: Mapping[str, Any]) -> None:
    """Print a line for each workload and each number of busy processes."""
    line = "{:<9} {:>5} {:<11} {:>9} {:>9} {:>7} {:>13}"
    heads = ("workload", "busy", "textbook", "ms", "tool ms", "ratio", "least..most")
    print("\n" + line.format(*heads))
    for name, result in results.items():
        for row in result["loads"]:
            times, (least, most) = row["ms_per_step"], row["ratio_range"]
            print(
                line.format(
                    *(name, row["busy"], row["textbook"]),
                    *(f"{times[loop]:.2f}" for loop in (row["textbook"], TOOL)),
                    *(f"{row['ratio']:.2f}", f"{least:.2f}..{most:.2f}"),
                )
            )

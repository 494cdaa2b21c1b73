"""How a step's time grows: python -m benchmarks.scaling [WORDS].

Milliseconds of a step's updates for several n_critic and batch sizes, and what a line through the
first and the last makes of those between.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from contextlib import nullcontext

from benchmarks.measuring import Loop, Stopwatch
from benchmarks.workloads import Tool, tool

N_CRITIC = (1, 2, 5, 10, 20)
BATCH_SIZES = (64, 128, 256, 512)
ROUNDS = 5
TOOL = "tool"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", 1)[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, about")
    parser.add_argument("words", nargs="*", metavar="WORD", help="of wgan-train")
    arguments = parser.parse_intermixed_args()
    for key, values in (("n_critic", N_CRITIC), ("batch_size", BATCH_SIZES)):
        trained = [tool([*arguments.words, f"{key}={value}"]) for value in values]
        found = step_ms(trained, arguments.seconds)
        print(f"\n{key:<12}" + "".join(f"{value:>9}" for value in values))
        print(f"{'ms a step':<12}" + "".join(f"{ms:9.2f}" for ms in found))
        print(f"{'on a line':<12}" + "".join(f"{ms:9.2f}" for ms in line(values, found)))


def step_ms(trained: Sequence[Tool], seconds: float) -> list[float]:
    """The median milliseconds of each one's steps, in turns, so that all meet the same hours."""
    watches = [Stopwatch(one.device, one.config.n_critic or 1, seconds / ROUNDS) for one in trained]
    loops = [{TOOL: Loop(one.trainer.train_step, nullcontext)} for one in trained]
    rounds = [
        [watch.times(loop, 1)[TOOL].median for watch, loop in zip(watches, loops, strict=True)]
        for _ in range(ROUNDS)
    ]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def line(places: Sequence[int], values: Sequence[float]) -> list[float]:
    """The straight line through the first and the last value, at every place."""
    slope = (values[-1] - values[0]) / (places[-1] - places[0])
    return [values[0] + slope * (place - places[0]) for place in places]


if __name__ == "__main__":
    main()

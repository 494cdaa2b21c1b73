"""How the time of a step grows: python -m benchmarks.scaling [OVERRIDE ...].

Prints milliseconds per step for several n_critic and batch sizes, and the values on the straight
line through the first and the last measurement.
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
    """Measure, and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", 1)[0])
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="approximate time of a measurement"
    )
    parser.add_argument("words", nargs="*", metavar="OVERRIDE", help="for wgan-train")
    arguments = parser.parse_intermixed_args()
    for key, values in (("n_critic", N_CRITIC), ("batch_size", BATCH_SIZES)):
        trained = [tool([*arguments.words, f"{key}={value}"]) for value in values]
        found = step_ms(trained, arguments.seconds)
        print(f"\n{key:<12}" + "".join(f"{value:>9}" for value in values))
        print(f"{'ms a step':<12}" + "".join(f"{ms:9.2f}" for ms in found))
        print(f"{'on a line':<12}" + "".join(f"{ms:9.2f}" for ms in line(values, found)))


def step_ms(trained: Sequence[Tool], seconds: float) -> list[float]:
    """Return each loop's median milliseconds per step, measured in alternating blocks."""
    watches = [Stopwatch(one.device, one.config.n_critic or 1, seconds / ROUNDS) for one in trained]
    loops = [{TOOL: Loop(one.trainer.train_step, nullcontext)} for one in trained]
    rounds = [
        [watch.times(loop, 1)[TOOL].median for watch, loop in zip(watches, loops, strict=True)]
        for _ in range(ROUNDS)
    ]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def line(places: Sequence[int], values: Sequence[float]) -> list[float]:
    """Return the values at each x of the straight line through the first and the last point."""
    slope = (values[-1] - values[0]) / (places[-1] - places[0])
    return [values[0] + slope * (place - places[0]) for place in places]


if __name__ == "__main__":
    main()

"""How a step's time grows: python -m benchmarks.scaling [WORDS].

Milliseconds of a step's updates for several n_critic and batch sizes, and what a line through the
first and the last makes of those between.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

from benchmarks.workloads import tool

N_CRITIC = (1, 2, 5, 10, 20)
BATCH_SIZES = (64, 128, 256, 512)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", 1)[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, about")
    parser.add_argument("words", nargs="*", metavar="WORD", help="of wgan-train")
    arguments = parser.parse_intermixed_args()
    for key, values in (("n_critic", N_CRITIC), ("batch_size", BATCH_SIZES)):
        found = [
            step_ms([*arguments.words, f"{key}={value}"], arguments.seconds) for value in values
        ]
        print(f"\n{key:<12}" + "".join(f"{value:>9}" for value in values))
        print(f"{'ms a step':<12}" + "".join(f"{ms:9.2f}" for ms in found))
        print(f"{'on a line':<12}" + "".join(f"{ms:9.2f}" for ms in line(values, found)))


def step_ms(words: Sequence[str], seconds: float) -> float:
    """The median milliseconds of `Trainer.train_step`."""
    one = tool(words)
    times: list[float] = []
    for _ in range(3):
        one.trainer.train_step()
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        one.trainer.train_step()
        if one.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def line(places: Sequence[int], values: Sequence[float]) -> list[float]:
    """The straight line through the first and the last value, at every place."""
    slope = (values[-1] - values[0]) / (places[-1] - places[0])
    return [values[0] + slope * (place - places[0]) for place in places]


if __name__ == "__main__":
    main()

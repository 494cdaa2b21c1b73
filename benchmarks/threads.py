"""The speed of training with several numbers of CPU threads: python -m benchmarks.threads --help.

The blocks alternate, so that changes of the machine's load affect all numbers of threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from benchmarks.measuring import Loop, Stopwatch
from benchmarks.workloads import tool
from wgan_cli.build.work import multiply_adds
from wgan_cli.machine import useful_threads


@contextmanager
def _threads(count: int) -> Iterator[None]:
    torch.set_num_threads(count)
    yield


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.threads", description=(__doc__ or "").split(":", 1)[0] + "."
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="OVERRIDE", help="a setting of wgan-train")
    add("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="(1 2)")
    add("--seconds", type=float, default=1.0, help="approximate time of a block (1)")
    add("--repeats", type=int, default=4, help="blocks of each number of threads (4)")
    arguments = parser.parse_intermixed_args()
    one = tool([*arguments.words, "device=cpu"])
    config, shape = one.config, one.dataset.sample_shape
    work = multiply_adds(config, shape, None)
    print(
        f"{config.precision}, {work / 1e6:.0f} million multiply-adds: at most"
        f" {useful_threads(work)} threads by default; {os.cpu_count()} CPUs here"
    )
    watch = Stopwatch(one.device, config.n_critic, arguments.seconds)
    loops = {n: Loop(one.trainer.train_step, partial(_threads, n)) for n in arguments.threads}
    blocks: dict[int, list[float]] = {n: [] for n in loops}
    for _ in range(arguments.repeats):
        for n, loop in loops.items():
            blocks[n].append(watch.block(loop))
    first = statistics.median(blocks[arguments.threads[0]])
    for n, times in blocks.items():
        median = statistics.median(times)
        print(
            f"{n:3} threads: {median:.2f} ms a step ({min(times):.2f} to {max(times):.2f}),"
            f" {first / median:.2f} times as fast as {arguments.threads[0]}"
        )
    one.trainer.inputs.feed.close()


if __name__ == "__main__":
    main()

"""One side of `benchmarks.throughput --busy`, in a process of its own.

    python -m benchmarks.timed_side tool|textbook OVERRIDES

OpenMP's threads wait as the environment says when torch is loaded. So a process that times both
sides would time one of them under the other's settings. This process sets itself up as a run of
`wgan-train` does, or not at all, as a user's script. It then reads requests, JSON in one line each,
from stdin, and answers each in one line on stdout. It ends when stdin is closed.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from wgan_cli.errors import WganError
from wgan_cli.waiting.policy import set_wait_policy

# Everything that imports torch is imported later.
if TYPE_CHECKING:
    from benchmarks.measuring import Loop, Stopwatch

TOOL, TEXTBOOK = "tool", "textbook"
# The numbers of workers of the textbook loop's DataLoader.
WORKERS = (0, 2)


def main() -> None:
    """Say what there is to time, then time a block for each request."""
    side, *words = sys.argv[1:]
    # Whatever else is printed must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        loops, watch, facts = (_tool if side == TOOL else _textbook)(words)
    except WganError as error:
        print(f"throughput: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps({"loops": [*loops], **facts}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        watch.seconds = request["seconds"]
        print(json.dumps(watch.block(loops[request["loop"]])), file=answers, flush=True)


_Side = tuple[dict[str, "Loop"], "Stopwatch", dict[str, Any]]


def _tool(words: list[str]) -> _Side:
    # As every command does, before torch is imported.
    set_wait_policy()
    from benchmarks.measuring import Loop, Stopwatch
    from benchmarks.workloads import tool

    one = tool(words)
    watch = Stopwatch(one.device, one.config.n_critic, 0.0)
    facts = {"threads": one.config.threads, "precision": one.config.precision}
    return {TOOL: Loop(one.trainer.train_step, nullcontext)}, watch, facts


def _textbook(words: list[str]) -> _Side:
    import torch

    from benchmarks.measuring import Loop, Stopwatch
    from benchmarks.workloads import filled, reading, textbook, textbook_data

    config, device = filled(words), torch.device("cpu")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = textbook_data(config)
    loop = textbook(config, device, tuple(data[0][0].shape))
    loops = {
        f"{TEXTBOOK}_{workers}": Loop(
            loop.step, partial(reading, loop, data, config.batch_size, workers)
        )
        for workers in WORKERS
    }
    facts = {"threads": torch.get_num_threads(), "precision": "fp32"}
    return loops, Stopwatch(device, loop.n_critic, 0.0), facts


if __name__ == "__main__":
    main()

"""The tool's updates against the loop of common tutorials: python -m benchmarks.throughput --help.

Both use the same networks, data and settings, in one process, and are timed in alternating blocks.
Before, it is checked that both give the same losses. Logging, evaluations and checkpoints are not
timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from benchmarks.agreement import STEPS, TOLERANCE, WINDOW, Agreement, agreement, bfloat16
from benchmarks.busy import print_table, under_load
from benchmarks.measuring import (
    Loop,
    Stopwatch,
    Times,
    flops_of_step,
    matrix_rate,
    name_of,
    peak_memory,
    tutorial_precision,
)
from benchmarks.textbook import Textbook
from benchmarks.workloads import (
    WORKLOADS,
    composed,
    reading,
    textbook,
    textbook_data,
    tool,
    words_of,
)
from wgan_cli.errors import WganError

WORKERS = (0, 2)
TEXTBOOK, TOOL = "textbook", "tool"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, like the tool, and exit with code 2."""
        self.exit(2, f"throughput: {message}; --help lists the words.\n")


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if loops do not agree, 2 for invalid options."""
    arguments = _arguments(words)
    try:
        return _run(arguments)
    except WganError as error:
        print(f"throughput: {error}", file=sys.stderr)
        return error.exit_code


def _run(arguments: argparse.Namespace) -> int:
    settings = [
        f"{key}={value}"
        for key in ("device", "threads", "precision", "compile", "graphs")
        if (value := getattr(arguments, key)) is not None
    ]
    if arguments.busy:
        settings = ["device=cpu", *(word for word in settings if not word.startswith("device="))]
    machine = _machine(settings)
    chosen = arguments.workloads or (["mlp", "digits"] if arguments.bf16_check else [*WORKLOADS])
    results: dict[str, Any] = {}
    report = {"machine": machine, "asked": settings, "workloads": results}
    for name in dict.fromkeys(chosen):
        words = [*words_of(WORKLOADS[name], arguments.root, arguments.images), *settings]
        measure = _precisions if arguments.bf16_check else _beside if arguments.busy else _measured
        results[name] = measure(name, words, arguments)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.busy:
        print_table(results)
        return 0
    if not arguments.bf16_check:
        _print_table(results)
    return 0 if all(result["agreement"]["reached"] for result in results.values()) else 1


def _machine(settings: Sequence[str]) -> dict[str, Any]:
    _, device = composed(settings)
    threads = torch.get_num_threads()
    rates = {
        name: matrix_rate(device, dtype)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    print(
        f"{name_of(device)}, device {device}, {threads} threads at most, torch {torch.__version__};"
        f" matrix products: {', '.join(f'{name} {_flops(rate)}' for name, rate in rates.items())}"
    )
    return {
        "name": name_of(device),
        "device": str(device),
        "threads": threads,
        "torch": torch.__version__,
        "matrix_flops_per_second": rates,
    }


def _measured(name: str, words: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    print(f"\n{name}: wgan-train {' '.join(words)}", flush=True)
    one = tool(words)
    print(f"  the tool read its data in {one.loading:.1f} s, once, which is not in its steps")
    paper = [*words, *WORKLOADS[name].paper]
    compared = agreement(paper, arguments.agreement_steps, one.dataset)
    _print_agreement(compared)
    loop = textbook(one.config, one.device, one.dataset.sample_shape, one.trainer)
    fed = partial(reading, loop, textbook_data(one.config), one.config.batch_size)
    with fed(0):
        flops = flops_of_step(loop)
    loops = _textbook_loops(loop, fed, one.device)
    loops[TOOL] = Loop(one.trainer.train_step, nullcontext)
    watch = Stopwatch(one.device, loop.n_critic, arguments.seconds)
    times = watch.times(loops, arguments.repeats)
    one.trainer.inputs.feed.close()
    own = times[TOOL]
    # Only against the loop as a tutorial's runs, which on CUDA is not the one in real fp32.
    books = [f"{TEXTBOOK}_{workers}" for workers in WORKERS]
    best = min(books, key=lambda side: times[side].median)
    memory = {
        best: peak_memory(words, int(best.rpartition("_")[2])),
        TOOL: peak_memory(words, None),
    }
    images = one.config.batch_size * loop.n_critic
    sides = {side: _side(times[side], flops, images, memory.get(side)) for side in loops}
    for side, numbers in sides.items():
        print(_line(side, times[side], numbers))
    ratios = [book / mine for book, mine in zip(times[best].blocks, own.blocks, strict=True)]
    return {
        "words": list(words),
        "precision": one.config.precision,
        "compile": one.config.compile,
        "graphs": one.config.graphs,
        "batch_size": one.config.batch_size,
        "n_critic": loop.n_critic,
        "agreement": {**asdict(compared), "reached": compared.reached},
        "tool_loading_seconds": one.loading,
        "flops_per_step": flops,
        "sides": sides,
        "textbook": best,
        "ratio": times[best].median / own.median,
        "ratio_range": [min(ratios), max(ratios)],
        "target": WORKLOADS[name].targets.get(one.device.type),
    }


def _beside(name: str, words: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    print(f"\n{name}: wgan-train {' '.join(words)}", flush=True)
    return under_load(words, arguments.busy, arguments.repeats, arguments.seconds)


def _textbook_loops(
    loop: Textbook,
    fed: Callable[[int], AbstractContextManager[object]],
    device: torch.device,
) -> dict[str, Loop]:
    """The textbook loop with each number of workers, as torch has it by default.

    By default, torch's convolutions on CUDA use TF32, which the tool turns off. So on CUDA the loop
    is timed in real fp32 too.
    """

    @contextmanager
    def as_torch_has_it(workers: int) -> Iterator[None]:
        with tutorial_precision(device), fed(workers):
            yield

    loops = {
        f"{TEXTBOOK}_{workers}": Loop(loop.step, partial(as_torch_has_it, workers))
        for workers in WORKERS
    }
    if device.type == "cuda":
        loops |= {
            f"{TEXTBOOK}_fp32_{workers}": Loop(loop.step, partial(fed, workers))
            for workers in WORKERS
        }
    return loops


def _print_agreement(found: Agreement) -> None:
    print(
        f"  {found.losses} losses of {found.steps} steps in fp32 differ by {found.worst:.1e} of"
        " themselves at most: "
        + ("the same" if found.reached else f"NOT THE SAME (allowed is {TOLERANCE:g})")
    )
    if found.tool_from_float64 is not None:
        print(
            f"  from the textbook loop in float64, the tool is {found.tool_from_float64:.1e} away"
            f" and the textbook loop in fp32 {found.textbook_from_float64:.1e}"
        )


def _precisions(name: str, words: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    print(f"\n{name}: critic/wasserstein of steps {STEPS - WINDOW} to {STEPS}", flush=True)
    plain = [word for word in words if not word.startswith("precision=")]
    found = bfloat16([*plain, *WORKLOADS[name].paper])
    for precision, mean, deviation in zip(
        ("fp32", "bf16"), found.means, found.deviations, strict=True
    ):
        print(f"  {precision}: mean {mean:.6g}, standard deviation {deviation:.2g} over seeds")
    print(
        f"  pooled standard deviation {found.pooled:.2g}: "
        + ("the means agree" if found.reached else "THE MEANS DO NOT AGREE")
    )
    facts = {"means": found.means, "deviations": found.deviations, "pooled": found.pooled}
    return {"words": plain, "agreement": {**asdict(found), **facts, "reached": found.reached}}


def _side(times: Times, flops: int, images: int, memory: float | None) -> dict[str, Any]:
    seconds = times.median / 1e3
    numbers: dict[str, Any] = {
        "ms_per_step": times.median,
        "ms_per_step_range": [min(times.blocks), max(times.blocks)],
        "blocks_ms_per_step": times.blocks,
        "images_per_second": images / seconds,
        "flops_per_second": flops / seconds,
    }
    return numbers if memory is None else {**numbers, "peak_memory_mib": memory}


def _line(side: str, times: Times, numbers: dict[str, Any]) -> str:
    memory = numbers.get("peak_memory_mib")
    return (
        f"  {side:<15} {times} a step, {numbers['images_per_second']:.0f} images/s,"
        f" {_flops(numbers['flops_per_second'])}" + (f", {memory:.0f} MiB" if memory else "")
    )


def _print_table(results: dict[str, Any]) -> None:
    heads = ("workload", "textbook", "ms", "tool ms", "images/s", "ratio", "least..most", "target")
    row = "{:<9} {:<11} {:>9} {:>9} {:>9} {:>7} {:>13} {:>7}"
    print("\n" + row.format(*heads))
    for name, result in results.items():
        book, own = result["sides"][result["textbook"]], result["sides"][TOOL]
        least, most = result["ratio_range"]
        print(
            row.format(
                name,
                result["textbook"],
                f"{book['ms_per_step']:.2f}",
                f"{own['ms_per_step']:.2f}",
                f"{own['images_per_second']:.0f}",
                f"{result['ratio']:.2f}",
                f"{least:.2f}..{most:.2f}",
                result["target"] or "none",
            )
            + ("" if result["agreement"]["reached"] else "  LOSSES DIFFER")
        )


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.1f} GFLOP/s"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m benchmarks.throughput", description=(__doc__ or "").split(":", 1)[0] + "."
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help=f"{', '.join(WORKLOADS)} (all)")
    add("--device", choices=("cpu", "cuda"), help="default: the tool's choice, as for these:")
    add("--threads", type=_count)
    add("--precision", choices=("auto", "fp32", "bf16"), help="precision of the tool")
    add("--compile", choices=("true", "false"), help="whether the tool compiles")
    add("--graphs", choices=("true", "false"), help="whether the tool uses CUDA graphs")
    add("--repeats", type=_count, default=5, help="blocks of each loop (5)")
    add("--seconds", type=_seconds, default=5.0, help="approximate time of a block (5)")
    add("--agreement-steps", type=_count, default=20, help="steps compared first (20)")
    add("--root", type=Path, default=Path("data"), help="folder of MNIST, like dataset.root (data)")
    add("--images", type=Path, metavar="DIR", help="images in class folders (default: generated)")
    add("--json", type=Path, metavar="FILE", help="file to write the numbers to")
    instead = parser.add_mutually_exclusive_group().add_argument
    instead("--bf16-check", action="store_true", help="compare 500 steps of bf16 and fp32 instead")
    beside = "time each loop in its own process, on the CPU, beside N busy processes instead"
    instead("--busy", type=_number, nargs="+", metavar="N", help=beside)
    arguments = parser.parse_args(words)
    unknown = [name for name in arguments.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"{unknown[0]}: no such workload; there are {', '.join(WORKLOADS)}")
    if arguments.busy and arguments.device == "cuda":
        parser.error("--busy times loops on the CPU: leave --device=cuda out")
    if arguments.images is not None and not arguments.images.is_dir():
        parser.error(f"--images {arguments.images}: there is no such folder")
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no such folder")
    return arguments


def _count(word: str, least: int = 1) -> int:
    if not word.isdigit() or int(word) < least:
        raise argparse.ArgumentTypeError(
            f"a whole number of at least {least} is needed, not {word}"
        )
    return int(word)


def _number(word: str) -> int:
    return _count(word, least=0)


def _seconds(word: str) -> float:
    try:
        seconds = float(word)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {word}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())

"""Check and measure the package on a CUDA device, in seven parts.

    python -m benchmarks.gpu --out FOLDER [--minutes 8] [--parts 1,3] [--mnist DIR] [--cifar DIR]

Each part runs in a process of its own under a time limit. FOLDER/gpu.json and FOLDER/summary.txt
are written again after every part, and every few seconds within one. Exit code 0: all checks that
were judged have passed; 1: some failed; 2: wrong options, or no CUDA device.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import plan, summary
from benchmarks.gpu.child import command
from benchmarks.gpu.processes import run_child
from benchmarks.gpu.records import Record, Reporter, Work

# Seconds between two writes of the report while a part runs.
_EVERY = 5.0


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts; return the exit code."""
    arguments = _arguments(words)
    # So that children do not outlive this process: leaving `run_child` kills them.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    end = time.monotonic() + 60 * arguments.minutes
    folder = Path(tempfile.mkdtemp(prefix="wgan-gpu-"))
    try:
        work = Work(
            Reporter(sys.stdout, real=True),
            60 * arguments.minutes,
            folder,
            mnist=arguments.mnist,
            cifar=arguments.cifar,
        )
        work.device = _device(work)
        report = summary.new_report(work.device)
        summary.write(report, arguments.out)
        if not work.device.get("available"):
            why = work.device.get("why", "torch finds none")
            print(f"benchmarks.gpu: there is no CUDA device here ({why}).", file=sys.stderr)
            return 2
        for index, number in enumerate(arguments.parts):
            waiting = arguments.parts[index + 1 :]
            _run_part(number, waiting, end, work, report, arguments.out)
        report["complete"] = True
        summary.write(report, arguments.out)
        print(f"{arguments.out / 'summary.txt'}: {'passed' if report['passed'] else 'FAILED'}")
        return 0 if report["passed"] else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _device(work: Work) -> dict[str, Any]:
    found: list[Record] = []
    ending = run_child(command(work, 0, 60), 60, found.append)
    if found:
        return {key: value for key, value in found[0].items() if key != "kind"}
    last = ending.stderr.strip().splitlines()[-1:] or ["no answer in a minute"]
    return {"available": False, "why": last[0]}


def _run_part(
    number: int, waiting: list[int], end: float, work: Work, report: summary.Report, out: Path
) -> None:
    seconds = plan.limit(number, waiting, end - time.monotonic())
    part = report["parts"][str(number)] = summary.new_part(number, seconds)
    print(f"{number}. {part['title']}, at most {seconds:.0f} s", flush=True)
    if seconds < plan.LEAST:
        part["state"] = "no time left"
        part["skipped"].append({"name": f"part {number}", "why": f"{seconds:.0f} s were left"})
        return
    written = [time.monotonic()]

    def on_record(record: Record) -> None:
        summary.add(part, record)
        if time.monotonic() > written[0] + _EVERY:
            summary.write(report, out)
            written[0] = time.monotonic()

    # The child plans with a little less than its limit.
    try:
        ending = run_child(command(work, number, 0.97 * seconds - 1), seconds, on_record)
    except BaseException:
        part["state"] = "interrupted"
        summary.write(report, out)
        raise
    part["seconds"] = round(ending.seconds, 1)
    part["state"] = "cut off" if ending.timed_out else f"ended with code {ending.code}"
    if ending.timed_out:
        part["skipped"].append({"name": "the rest of the part", "why": "its time was over"})
    elif ending.code == 0:
        part["state"] = "done"
    elif not any(check["name"] == "the part ends" for check in part["checks"]):
        text = f"exit code {ending.code}"
        summary.add(part, {"kind": "error", "text": text})
    if ending.code and ending.stderr:
        part["stderr"] = ending.stderr[-4000:]
    summary.write(report, out)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for gpu.json and summary.txt")
    add("--minutes", type=float, default=8.0, help="time for all parts (8)")
    add("--parts", help=f"numbers between commas, of {', '.join(map(str, plan.PARTS))} (all)")
    add("--mnist", type=Path, metavar="DIR", help="what dataset.root is for MNIST")
    add("--cifar", type=Path, metavar="DIR", help="CIFAR-10: dataset.root, or a folder of images")
    arguments = parser.parse_args(words)
    try:
        arguments.parts = plan.chosen(arguments.parts)
    except ValueError as error:
        parser.error(f"--parts: {error}")
    if not arguments.minutes > 0:
        parser.error("--minutes must be above 0")
    for name in ("mnist", "cifar"):
        path = getattr(arguments, name)
        if path is not None:
            if not path.is_dir():
                parser.error(f"--{name} {path}: there is no such folder")
            setattr(arguments, name, path.absolute())
    arguments.out.mkdir(parents=True, exist_ok=True)
    return arguments


if __name__ == "__main__":
    sys.exit(main())

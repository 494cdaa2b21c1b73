"""Runs one part, or some cases of it, in this process, and writes records to standard output."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.records import Reporter, Work, in_short

# The exit code of a process that has reported its last case, and cannot run another.
RESTART = 9


def command(work: Work, part: int, seconds: float, cases: list[str] | None = None) -> list[str]:
    """The arguments of Python for a child that runs a part, or only these cases of it."""
    given = {
        "part": part,
        "seconds": seconds,
        "began": time.time(),
        "folder": str(work.folder),
        "device": work.device,
        "mnist": work.mnist and str(work.mnist),
        "cifar": work.cifar and str(work.cifar),
        "cases": cases,
    }
    return ["-m", "benchmarks.gpu.child", json.dumps(given)]


def main() -> int:
    """Run the part; return 1 if it raises an error, which is written as a record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("given", type=json.loads)
    given = parser.parse_args().given
    # Whatever else is printed goes to stderr, so that records come alone.
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    report = Reporter(stream, real=bool(given["device"].get("values_are_real", True)))
    work = Work(
        report,
        # Less what it took to start.
        given["seconds"] - (time.time() - given["began"]),
        Path(given["folder"]),
        given["device"],
        Path(given["mnist"]) if given["mnist"] else None,
        Path(given["cifar"]) if given["cifar"] else None,
    )
    if given["part"] == 0:
        from benchmarks.gpu.probe import probe

        report.write({"kind": "device", **probe()})
        return 0
    from benchmarks.gpu import facts, failures, repeats, speed, trainings, typed, updates

    parts: list[Any] = [facts, updates, repeats, failures, typed, speed, trainings]
    part = parts[given["part"] - 1]
    try:
        if given["cases"] is None:
            part.run(work)
        else:
            return _run_cases(part, given["cases"], work)
    except Exception as error:
        report.write({"kind": "error", "text": in_short(error)})
        raise
    return 0


def _run_cases(part: Any, cases: list[str], work: Work) -> int:
    """Run cases until one leaves CUDA broken in this process; the parent then starts another."""
    for name in cases:
        work.report.write({"kind": "case", "name": name})
        try:
            part.run_case(name, work)
        except Exception as error:
            work.report.check(name, False, in_short(error), "no error")
        gc.collect()
        if not _healthy():
            return RESTART
    return 0


def _healthy() -> bool:
    """Whether CUDA still works: no error that stays, no capture that was left half done."""
    import torch

    try:
        torch.randn(1, device="cuda")
        torch.cuda.synchronize()
        default = torch.cuda.default_stream()
    except RuntimeError:
        return False
    return torch.cuda.current_stream() == default


if __name__ == "__main__":
    sys.exit(main())

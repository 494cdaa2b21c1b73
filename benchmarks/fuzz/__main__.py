"""The fuzzer's command line: run many cases and count what is wrong, or replay one case."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from benchmarks.fuzz import __doc__ as about
from benchmarks.fuzz.cases import Case, draw
from benchmarks.fuzz.findings import Finding, findings_of
from benchmarks.fuzz.running import LIMIT, Result, Worker, working

# As in the tests: more threads than a narrow network needs only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


class Tally:
    """Counts results by kind of case, prints findings, and writes them to `out` as JSON lines."""

    def __init__(self, seed: int, out: Path | None) -> None:
        self.seed = seed
        self.cases: Counter[str] = Counter()
        self.codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._file = None if out is None else out / "findings.jsonl"
        self._lock = threading.Lock()

    def add(self, result: Result, findings: list[Finding]) -> None:
        """Count one result."""
        case = result.case
        with self._lock:
            self.cases[case.kind] += 1
            self.codes[case.kind]["killed" if result.code is None else str(result.code)] += 1
            for group, sentence in findings:
                self.found[case.kind][group] += 1
                print(f"case {case.number}: {group}: {sentence}", flush=True)
                if self._file is not None:
                    line = {
                        "seed": self.seed,
                        "case": case.number,
                        "kind": case.kind,
                        "group": group,
                        "finding": sentence,
                        "command": case.shown(),
                        "files": list(map(str, case.edits)),
                        "surroundings": str(case.surroundings),
                    }
                    with self._file.open("a") as file:
                        file.write(json.dumps(line) + "\n")

    def table(self) -> str:
        """Return a row for each kind of case."""
        rows = [f"{'kind':<16} {'cases':>6} {'findings':>8}  exit codes; groups of findings"]
        for kind, count in sorted(self.cases.items()):
            codes = " ".join(f"{code}:{n}" for code, n in self.codes[kind].most_common())
            groups = ", ".join(f"{n} {group}" for group, n in self.found[kind].most_common())
            found = self.found[kind].total()
            rows.append(f"{kind:<16} {count:>6} {found:>8}  {codes}; {groups or 'none'}")
        return "\n".join(rows)


def main() -> int:
    """Run the cases; return 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=about)
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default 0)")
    parser.add_argument("--minutes", type=float, help="start no case after so many minutes")
    parser.add_argument("--cases", type=int, help="run so many cases (default 200, or no limit)")
    parser.add_argument("--first", type=int, default=0, help="the first case's number (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="cases side by side (default 1)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds until a case is killed")
    parser.add_argument("--case", type=int, help="replay this case and show everything")
    parser.add_argument("--fresh", action="store_true", help="replay it in a Python of its own")
    parser.add_argument("--out", type=Path, help="a folder for findings.jsonl")
    arguments = parser.parse_args()
    if arguments.case is not None:
        case = draw(arguments.seed, arguments.case)
        if arguments.fresh:
            case = replace(case, surroundings=replace(case.surroundings, fresh=True))
        return replay(case, arguments.limit)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    tally = Tally(arguments.seed, arguments.out)
    count = arguments.cases or (None if arguments.minutes else 200)
    numbers = itertools.count(arguments.first)
    until = time.monotonic() + 60 * arguments.minutes if arguments.minutes else float("inf")

    def work(worker: Worker) -> None:
        while time.monotonic() < until:
            number = next(numbers)
            if count is not None and number >= arguments.first + count:
                return
            result = worker.run(draw(arguments.seed, number))
            tally.add(result, findings_of(result))

    def job() -> None:
        with working(arguments.limit) as worker:
            work(worker)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(job) for _ in range(arguments.jobs)]
    for done in jobs:
        done.result()
    print(tally.table())
    return 1 if any(tally.found.values()) else 0


def replay(case: Case, limit: float) -> int:
    """Run one case and print everything about it; return 1 if anything was found."""
    with working(limit) as worker:
        result = worker.run(case)
        findings = findings_of(result)
    print(f"{case.kind}: {case.shown()}")
    print(f"surroundings: {case.surroundings}" if str(case.surroundings) else "as usual")
    for edit in case.edits:
        print(f"edit: {edit}".encode("utf-8", "backslashreplace").decode())
    for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        print(f"--- {name}\n{text}".encode("utf-8", "backslashreplace").decode())
    print("--- files made, changed or removed")
    for path in sorted(result.before.keys() | result.after.keys()):
        if result.before.get(path) != result.after.get(path):
            print(f"{path!r}: {result.after.get(path, 'removed')}")
    print(f"--- exit code {result.code} after {result.seconds:.1f} s")
    for group, sentence in findings:
        print(f"finding: {group}: {sentence}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

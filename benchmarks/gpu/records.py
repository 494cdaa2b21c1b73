"""The records that a part writes while it runs, one JSON line each, and what a part knows."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

Record = dict[str, Any]
NOT_REAL = "not judged: this device returns no real values"


class Reporter:
    """Writes the records of one part.

    `real` is False for a device whose results are not numbers that were computed, as in a
    rehearsal. Checks with `numbers` are then not judged.
    """

    def __init__(self, stream: TextIO, *, real: bool) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.real = real

    def fact(self, name: str, value: Any) -> None:
        """Write a figure or a text that nothing is required of."""
        self.write({"kind": "fact", "name": name, "value": value})

    def check(
        self, name: str, passed: bool, found: Any, wanted: Any, *, numbers: bool = False
    ) -> None:
        """Write the result of a check. `numbers` is True if it depends on computed values."""
        record: Record = {"kind": "check", "name": name, "found": found, "wanted": wanted}
        record["passed"] = bool(passed)
        if numbers and not self.real:
            record.update(passed=None, why=NOT_REAL)
        self.write(record)

    def skipped(self, name: str, why: str) -> None:
        """Write that a case was not run."""
        self.write({"kind": "skipped", "name": name, "why": why})

    def refused(self, name: str, why: str) -> None:
        """Write that the package refuses a combination, which is then only counted."""
        self.write({"kind": "refused", "name": name, "why": why})

    def attempt(self, name: str, function: Callable[[], object], *, numbers: bool = False) -> bool:
        """Call the function. If it raises an error, write a failed check and return False."""
        try:
            function()
        except Exception as error:
            self.check(name, False, in_short(error), "no error", numbers=numbers)
            return False
        return True

    def write(self, record: Record) -> None:
        """Write any record, as one line."""
        with self._lock:
            self._stream.write(json.dumps(record, default=str) + "\n")
            self._stream.flush()


@dataclass
class Work:
    """What a part knows: its time, its folder, the device's facts and the user's paths."""

    report: Reporter
    seconds: float
    folder: Path
    device: dict[str, Any] = field(default_factory=dict)
    mnist: Path | None = None
    cifar: Path | None = None

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds until the part's limit."""
        return self._end - time.monotonic()

    def has(self, seconds: float, name: str) -> bool:
        """Whether as many seconds are left. If not, write that the case is skipped."""
        if self.left >= seconds:
            return True
        self.report.skipped(name, f"{max(self.left, 0):.0f} s were left of the part's time")
        return False


def in_short(error: BaseException) -> str:
    """The error's type, its first line, and the last place of the package it came from."""
    lines = str(error).strip().splitlines() or [""]
    places = [
        f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
    ]
    return f"{type(error).__name__}: {lines[0][:300]} (at {' < '.join(places[::-1][:4])})"


def parsed(line: str) -> Record | None:
    """The record in a line; None for anything else, such as a line that was cut off."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None

"""Read and write `status.json`: the progress of a run, or how it ended."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from wgan_cli.errors import DiskError, WganError
from wgan_cli.files import overwrite_in_place, write_atomically
from wgan_cli.untrusted_files import read_json

STATUS = "status.json"

T = TypeVar("T")


@dataclass(frozen=True)
class RunStatus:
    """The fields of `status.json`, in the same order.

    `state` is empty if no run has begun. `final` holds the newest value of every tag. `returns` is
    the list of rollbacks (returns to an earlier checkpoint). `evaluation_seconds` holds the total
    time of each metric over all evaluations. `seconds` is the total time of the run, including
    resumes.
    """

    state: str = ""
    exit_code: int | None = None
    step: int = 0
    steps: int | None = None
    message: str = ""
    final: Mapping[str, float] = field(default_factory=dict)
    returns: Sequence[Mapping[str, Any]] = ()
    started: str = ""
    ended: str | None = None
    evaluation_seconds: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def running(self) -> bool:
        """True if the run has begun and not recorded its end. A killed run stays in this state."""
        return self.state == "running"

    @property
    def finished(self) -> bool:
        """True if all steps are done."""
        return self.state == "finished"

    def failed(self, error: BaseException) -> RunStatus:
        """Return the status of this run after `error` has ended it."""
        if isinstance(error, WganError):
            state, exit_code, message = error.state, error.exit_code, str(error)
        else:
            state, exit_code, message = "failed", 1, f"{type(error).__name__}: {error}"
        return dataclasses.replace(
            self, state=state, exit_code=exit_code, message=message, ended=now()
        )


def read_status(folder: Path) -> RunStatus:
    """Return the status of the run in `folder`, with defaults for fields that cannot be read."""
    try:
        fields = read_json(folder / STATUS)
    except (OSError, ValueError):
        return RunStatus()
    if not isinstance(fields, dict):
        return RunStatus()
    returns = fields.get("returns")
    return RunStatus(
        state=_text(fields.get("state")),
        exit_code=_number(fields.get("exit_code"), int),
        step=_number(fields.get("step"), int) or 0,
        steps=_number(fields.get("steps"), int),
        message=_text(fields.get("message")),
        final=_numbers(fields.get("final")),
        returns=returns if isinstance(returns, list) else (),
        started=_text(fields.get("started")),
        ended=_text(fields.get("ended")) or None,
        evaluation_seconds=_numbers(fields.get("evaluation_seconds")),
        seconds=_number(fields.get("seconds"), float),
    )


def write_status(folder: Path, status: RunStatus) -> None:
    """Replace `status.json` atomically. Raises `DiskError`.

    If the disk is full and the run has ended, the file is overwritten in place instead.
    """
    path, ended = folder / STATUS, status.exit_code is not None
    fields = dataclasses.asdict(status)
    try:
        write_atomically(path, (json.dumps(fields, indent=2) + "\n").encode(), durable=ended)
    except DiskError:
        if not (ended and overwrite_in_place(path, json.dumps(fields).encode() + b"\n")):
            raise


def now() -> str:
    """Return the current UTC time as ISO 8601 text, the format of `status.json`."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _text(value: Any) -> str:
    # Replace lone surrogates: JSON allows them, but a terminal or a file cannot encode them.
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    numbers = {_text(key): _number(value, float) for key, value in values.items()}
    return {key: number for key, number in numbers.items() if number is not None}


def _number(value: Any, kind: type[T]) -> T | None:
    """Return `value` converted to the type `kind`, or None if it is not a finite number."""
    try:
        valid = type(value) in (int, float) and math.isfinite(value)
        return kind(value) if valid else None  # type: ignore[call-arg]
    except OverflowError:
        # The integer is too large for a float.
        return None

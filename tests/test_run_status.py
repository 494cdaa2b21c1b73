"""`status.json`: what is written is read, and what is broken has defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wgan_cli.errors import DivergedError
from wgan_cli.run_status import RunStatus, read_status, write_status

STATUS = RunStatus(
    state="finished",
    exit_code=0,
    step=7,
    steps=7,
    message="done",
    final={"wasserstein/exact": 0.5},
    returns=[{"at": 3, "to": 2}],
    started="2026-01-01T00:00:00+00:00",
    ended="2026-01-01T00:00:01+00:00",
    evaluation_seconds={"samples": 0.25},
    seconds=1.5,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_status(tmp_path, STATUS)
    assert read_status(tmp_path) == STATUS


def test_the_files_keys_and_their_order(tmp_path: Path) -> None:
    write_status(tmp_path, STATUS)
    assert list(json.loads((tmp_path / "status.json").read_text())) == [
        *("state", "exit_code", "step", "steps", "message", "final", "returns"),
        *("started", "ended", "evaluation_seconds", "seconds"),
    ]


@pytest.mark.parametrize("content", [None, b"", b'{"state": "fin', b"[1, 2]", b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_no_status(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "status.json").write_bytes(content)
    assert read_status(tmp_path) == RunStatus()


def test_a_field_of_another_type_has_its_default_and_the_others_are_read(tmp_path: Path) -> None:
    fields = {"state": [1], "step": "many", "steps": True, "message": "half \ud800", "returns": 3}
    fields |= {"final": {"a": "x", "b": float("nan"), "c": 10**400, "d": 2}, "seconds": 1.5}
    (tmp_path / "status.json").write_text(json.dumps(fields))
    read = read_status(tmp_path)
    assert read == RunStatus(message="half ?", final={"d": 2.0}, seconds=1.5)


def test_an_error_ends_a_run_in_its_own_state(tmp_path: Path) -> None:
    running = RunStatus(state="running", step=3, steps=7)
    diverged = running.failed(DivergedError("critic/loss became NaN."))
    assert (diverged.state, diverged.exit_code, diverged.step) == ("diverged", 5, 3)
    failed = running.failed(KeyError("x"))
    assert (failed.state, failed.exit_code, failed.message) == ("failed", 1, "KeyError: 'x'")
    assert running.running
    assert not failed.running

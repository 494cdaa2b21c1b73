"""Write, verify, find and read checkpoints.

A checkpoint is an ordinary `torch.save` archive. Its zip comment holds the SHA-256 of the archive,
because `torch.load` and zip readers do not detect every damaged byte. A checkpoint is first written
to a temporary file in the same folder, and this file is then renamed. So a file with the name of a
checkpoint is never incomplete.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from wgan_cli.errors import CheckpointError, DamagedCheckpointError
from wgan_cli.files import write_atomically
from wgan_cli.out_of_memory import is_out_of_memory

FORMAT = 1
_END_RECORD = b"PK\x05\x06"
_END_RECORD_SIZE = 22
_MARK = b"wgan-train sha256="
_NAME = re.compile(r"step_(\d{8,})\.pt")
# Every checkpoint has these entries, and their values are dicts.
_PARTS = ("config", "generator", "critic", "generator_optimizer", "critic_optimizer", "window")


def checkpoint_name(step: int) -> str:
    """Return the file name of a step's checkpoint, such as `step_00001000.pt`."""
    return f"step_{step:08d}.pt"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return a folder's checkpoint files, sorted by step. Folders and pipes are ignored."""
    paths = (p for p in folder.glob("step_*.pt") if _NAME.fullmatch(p.name) and p.is_file())
    return sorted(paths, key=step_of)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's file name. Raise `CheckpointError` for other names."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint (step_00001000.pt).")
    return int(match[1])


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state to `path`. On `DiskError`, an existing file stays unchanged.

    The state may contain only tensors, numbers, strings, lists and dicts, because `torch.load`
    reads it with `weights_only=True`.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    _seal(buffer)
    # Release the view even if the disk is full; otherwise Python 3.13 reports an error later.
    with buffer.getbuffer() as data:
        write_atomically(path, data)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and verify a checkpoint; return its state with all tensors on the CPU.

    Raises `CheckpointError` with the reason if the file cannot be read, is damaged or has another
    format. Out-of-memory errors are raised unchanged.
    """
    try:
        # Reading a pipe would block until another process writes to it.
        if path.exists() and not path.is_file():
            raise DamagedCheckpointError(f"{path} cannot be read: it is not a file.")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    _verify(path, data)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedCheckpointError(f"{path} cannot be loaded safely: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of wgan-train.")
    return state


def check_whole(state: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` if an entry of the state is missing or has the wrong type.

    This check is needed in addition to the checksum: another program can write a file with a valid
    checksum but the wrong contents.
    """

    def is_rollback(value: Any) -> bool:
        kinds = {"at": int, "to": int, "lr_factor": float, "reason": str}
        return (
            isinstance(value, dict)
            and value.keys() == kinds.keys()
            and all(isinstance(value[name], kind) for name, kind in kinds.items())
        )

    def is_count(value: Any, least: int = 1) -> bool:
        return isinstance(value, int) and value >= least

    shape, classes = state.get("sample_shape"), state.get("classes")
    rollbacks = state.get("returns", [])
    valid = {
        "step": is_count(state.get("step"), least=0),
        "sample_shape": isinstance(shape, list) and bool(shape) and all(map(is_count, shape)),
        "classes": classes is None or is_count(classes),
        "inner": is_count(state.get("inner", 0), least=0),
        "unmeasured": isinstance(state.get("unmeasured", False), bool),
        "returns": isinstance(rollbacks, list) and all(map(is_rollback, rollbacks)),
        "data": isinstance(state.get("data"), dict | None),
        "world": is_count(state.get("world", 1)),
        **{part: isinstance(state.get(part), dict) for part in _PARTS},
    }
    for entry, is_valid in valid.items():
        if not is_valid:
            raise CheckpointError(
                f"{path} is no checkpoint of a run: its {entry} is missing or makes no sense."
            )


def load_newest(
    folder: Path, before: int | None = None
) -> tuple[dict[str, Any] | None, Path | None, list[str]]:
    """Load the newest intact checkpoint; return its state, its path and a list of warnings.

    Each warning is about a newer checkpoint that is damaged and was skipped. With `before`, only
    checkpoints of steps before `before` are considered. State and path are None if no checkpoint is
    intact. Raises `CheckpointError` if a checkpoint cannot be read but may be intact, for example
    because a later version wrote it. Resuming from an older checkpoint would then lose work.
    """
    warnings: list[str] = []
    for path in reversed(find_checkpoints(folder)):
        if before is not None and step_of(path) >= before:
            continue
        try:
            return load_checkpoint(path), path, warnings
        except DamagedCheckpointError as error:
            warnings.append(f"{error} It is skipped.")
    return None, None, warnings


def prune_checkpoints(folder: Path, keep: int, also: Iterable[Path] = ()) -> None:
    """Delete all checkpoints except the `keep` newest and the paths in `also`."""
    kept = set(also)
    for path in find_checkpoints(folder)[:-keep]:
        if path not in kept:
            path.unlink(missing_ok=True)


def _seal(archive: io.BytesIO) -> None:
    """Store the archive's SHA-256 as the archive's zip comment, without copying the data."""
    with archive.getbuffer() as data:
        end = len(data) - _END_RECORD_SIZE
        assert data[end : end + len(_END_RECORD)] == _END_RECORD, "torch.save writes no zip comment"
        # A zip file's end record ends with the length of the comment.
        comment = _MARK + hashlib.sha256(data[:-2]).hexdigest().encode()
    archive.seek(-2, os.SEEK_END)
    archive.write(struct.pack("<H", len(comment)) + comment)


def _verify(path: Path, data: bytes) -> None:
    comment_size = len(_MARK) + 64
    body, comment = data[:-comment_size], data[-comment_size:]
    length = struct.pack("<H", comment_size)
    if not comment.startswith(_MARK) or body[-2:] != length:
        raise DamagedCheckpointError(
            f"{path} is cut short or damaged ({len(data)} bytes, no checksum at its end)."
        )
    digest = hashlib.sha256(body[:-2]).hexdigest().encode()
    if comment[len(_MARK) :] != digest:
        raise DamagedCheckpointError(f"{path} is damaged: its contents do not match its checksum.")

"""Write, verify, find and read checkpoints.

A checkpoint is an ordinary `torch.save` archive. Its zip comment holds the SHA-256 of the archive,
because `torch.load` and zip readers do not detect every damaged byte. A checkpoint is first written
to a temporary file in the same folder, and this file is then renamed. So a file with the name of a
checkpoint is never incomplete.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from wgan_cli.errors import CheckpointError, DamagedCheckpointError
from wgan_cli.files import write_atomically
from wgan_cli.operating_system import remove
from wgan_cli.out_of_memory import is_out_of_memory

FORMAT = 1
_END_RECORD = b"PK\x05\x06"
_END_RECORD_SIZE = 22
_MARK = b"wgan-train sha256="
_NAME = re.compile(r"step_(\d{8,})\.pt")
# Limits of the counts in a checkpoint and of the number of sides of a sample.
_MOST, _MOST_SIDES = 2**53, 8
# The deepest nesting of a config.
_DEEPEST = 40
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
    _refuse_compressed(path, data)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedCheckpointError(f"{path} cannot be loaded safely: {reason}") from None
    form = state.get("format") if isinstance(state, dict) else None
    # Another program may have put a tensor there, which compares to a tensor.
    if type(form) is not int or form != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of wgan-train.")
    return state


def check_whole(state: dict[str, Any], path: Path) -> None:
    """Raise `CheckpointError` if an entry of the state is missing, or wrong in type or size.

    This check is needed in addition to the checksum: another program can write a file with a valid
    checksum but the wrong contents.
    """

    def is_rollback(value: Any) -> bool:
        kinds = {"at": int, "to": int, "lr_factor": float, "reason": str}
        return (
            isinstance(value, dict)
            and value.keys() == kinds.keys()
            and all(isinstance(value[name], kind) for name, kind in kinds.items())
            and is_count(value["at"], least=0)
            and is_count(value["to"], least=0)
            and 0 < value["lr_factor"] < math.inf
        )

    def is_count(value: Any, least: int = 1) -> bool:
        return type(value) is int and least <= value < _MOST

    def is_facts(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and value.keys() == {"training", "held_out", "classes"}
            and is_count(value["held_out"], least=0)
            # Endless data sets have no size, and many have no classes.
            and all(value[key] is None or is_count(value[key]) for key in ("training", "classes"))
        )

    shape, classes = state.get("sample_shape"), state.get("classes")
    rollbacks, facts = state.get("returns", []), state.get("data")
    valid = {
        "step": is_count(state.get("step"), least=0),
        "sample_shape": isinstance(shape, list)
        and 1 <= len(shape) <= _MOST_SIDES
        and all(map(is_count, shape)),
        "classes": classes is None or is_count(classes),
        "inner": is_count(state.get("inner", 0), least=0),
        "unmeasured": isinstance(state.get("unmeasured", False), bool),
        "returns": isinstance(rollbacks, list) and all(map(is_rollback, rollbacks)),
        "data": facts is None or is_facts(facts),
        "world": is_count(state.get("world", 1)),
        **{part: isinstance(state.get(part), dict) for part in _PARTS},
        "config": isinstance(state.get("config"), dict) and _is_tree(state["config"], set()),
    }
    for entry, is_valid in valid.items():
        if not is_valid:
            raise CheckpointError(
                f"{path} is no checkpoint of a run: its {entry} is missing or makes no sense."
            )


def _is_tree(node: Any, seen: set[int], depth: int = 0) -> bool:
    """Return True for plain values in dicts and lists, each of which is in one place.

    A list in two places may stand for millions of values, and a list in itself has no end. `seen`
    collects the ids of the dicts and lists so far.
    """
    if not isinstance(node, dict | list):
        return isinstance(node, str | int | float | None)
    if id(node) in seen or depth > _DEEPEST:
        return False
    seen.add(id(node))
    inner = node.values() if isinstance(node, dict) else node
    names = isinstance(node, list) or all(isinstance(key, str) for key in node)
    return names and all(_is_tree(value, seen, depth + 1) for value in inner)


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
            remove(path)


def _seal(archive: io.BytesIO) -> None:
    """Store the archive's SHA-256 as the archive's zip comment, without copying the data."""
    with archive.getbuffer() as data:
        end = len(data) - _END_RECORD_SIZE
        assert data[end : end + len(_END_RECORD)] == _END_RECORD, "torch.save writes no zip comment"
        # A zip file's end record ends with the length of the comment.
        comment = _MARK + hashlib.sha256(data[:-2]).hexdigest().encode()
    archive.seek(-2, os.SEEK_END)
    archive.write(struct.pack("<H", len(comment)) + comment)


def _refuse_compressed(path: Path, data: bytes) -> None:
    """Raise `DamagedCheckpointError` for compressed records: a small file could fill the memory.

    An archive that Python cannot read is refused too, because torch might still read it.
    """
    try:
        records = zipfile.ZipFile(io.BytesIO(data)).infolist()
    # For damaged archives, zipfile raises many kinds of errors.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise DamagedCheckpointError(f"{path} cannot be read: {error}.") from None
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise DamagedCheckpointError(f"{path} cannot be read: its records are compressed.")


def _verify(path: Path, data: bytes) -> None:
    comment_size = len(_MARK) + 64
    # A view, because the weights of large networks need no second copy.
    body, comment = memoryview(data)[:-comment_size], data[-comment_size:]
    length = struct.pack("<H", comment_size)
    if not comment.startswith(_MARK) or body[-2:] != length:
        raise DamagedCheckpointError(
            f"{path} is cut short or damaged ({len(data)} bytes, no checksum at its end)."
        )
    digest = hashlib.sha256(body[:-2]).hexdigest().encode()
    if comment[len(_MARK) :] != digest:
        raise DamagedCheckpointError(f"{path} is damaged: its contents do not match its checksum.")

"""What takes the place of a file or a folder: other contents, links, and files that are none."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from benchmarks.fuzz.values import odd_value, path_of

# The name of what a payload makes, and of the folder beside a case's folder that nothing may touch.
TRACE, OUTSIDE = "executed", "outside"
# A Python file that leaves the trace when it is imported.
EVIL_MODULE = f"import os\nos.makedirs({TRACE!r}, exist_ok=True)\n"


@dataclass(frozen=True)
class Edit:
    """A change to the files of a case: what it is in words, and how to make it in its folder."""

    what: str
    make: Callable[[Path], None]

    def __str__(self) -> str:
        return self.what


def payload() -> dict[str, Any]:
    """Return a node that makes the trace if anything builds it."""
    return {"_target_": "os.makedirs", "name": TRACE, "exist_ok": True}


def replaced(name: str, random: Random) -> Edit:
    """Return an edit that puts something else in a file's or folder's place."""
    how = random.choice(sorted(_PLACES))

    def make(folder: Path) -> None:
        path = folder / name
        removed(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _PLACES[how](path, folder)

    return Edit(f"{name} becomes {how}", make)


def removed(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _outside(folder: Path) -> Path:
    return folder.parent / OUTSIDE


def _loop(path: Path) -> None:
    path.symlink_to(f"{path.name}.loop")
    path.with_name(f"{path.name}.loop").symlink_to(path.name)


_PLACES: dict[str, Callable[[Path, Path], None]] = {
    "a folder": lambda path, _: path.mkdir(),
    "a folder with a file": lambda path, _: path_of(path, "x").touch(),
    "a pipe": lambda path, _: os.mkfifo(path),
    "an empty file": lambda path, _: path.touch(),
    "a file of zeros": lambda path, _: _zeros(path, 5000),
    "nothing": lambda path, _: None,
    "a link to nothing": lambda path, _: path.symlink_to("nothing"),
    "a link to nothing outside": lambda path, folder: path.symlink_to(_outside(folder) / "new"),
    "a link to itself": lambda path, _: path.symlink_to(path.name),
    "a loop of links": lambda path, _: _loop(path),
    "a link to a file outside": lambda path, folder: path.symlink_to(_outside(folder) / "canary"),
    "a link to a config outside": lambda path, folder: path.symlink_to(
        _outside(folder) / "canary.yaml"
    ),
    "a link to a folder outside": lambda path, folder: path.symlink_to(_outside(folder) / "deep"),
    "a link to /dev/zero": lambda path, _: path.symlink_to("/dev/zero"),
    "a link to /dev/stdin": lambda path, _: path.symlink_to("/dev/stdin"),
    "a link to /proc/self/mem": lambda path, _: path.symlink_to("/proc/self/mem"),
    "a link to the folder above": lambda path, _: path.symlink_to(".."),
    "a sparse file of 3 GB": lambda path, _: _zeros(path, 3_000_000_000),
}


def _zeros(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def bytes_changed(name: str, random: Random) -> Edit:
    """Return an edit that flips, cuts or adds bytes at a drawn part of a file."""
    how = random.choice(["flipped", "cut off", "cut out", "added", "doubled", "zeroed"])
    place, count, seed = random.random(), random.choice([1, 1, 2, 16, 300]), random.random()

    def make(folder: Path) -> None:
        path = folder / name
        if not path.is_file() or path.is_symlink() or path.stat().st_size > 10**8:
            return
        old = path.read_bytes()
        start = int(place * len(old))
        new = Random(seed).randbytes(count)
        middle = old[start : start + count]
        flipped = bytes(byte ^ 1 << index % 8 for index, byte in enumerate(middle))
        path.write_bytes(
            {
                "flipped": old[:start] + flipped + old[start + count :],
                "cut off": old[:start],
                "cut out": old[:start] + old[start + count :],
                "added": old[:start] + new + old[start:],
                "doubled": old + old,
                "zeroed": old[:start] + bytes(len(middle)) + old[start + count :],
            }[how]
        )

    return Edit(f"{count} bytes {how} at {place:.0%} of {name}", make)


def value_changed(name: str, random: Random) -> Edit:
    """Return an edit that changes one value of a JSON or YAML file, or of a line of JSON."""
    line = random.random()
    sentence, change = tree_change(random)

    def make(folder: Path) -> None:
        path = folder / name
        if not path.is_file() or path.is_symlink():
            return
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        try:
            if name.endswith((".jsonl", ".log")):
                lines = text.splitlines() or ["{}"]
                index = int(line * len(lines))
                lines[index] = json.dumps(change(json.loads(lines[index])))
                changed = "\n".join(lines) + "\n"
            elif name.endswith(".json"):
                changed = json.dumps(change(json.loads(text)))
            else:
                changed = as_yaml(change(yaml.safe_load(text)))
        except (ValueError, RecursionError, yaml.YAMLError):
            # An earlier edit has made another file of it.
            return
        path.write_text(changed, encoding="utf-8", errors="surrogatepass")

    return Edit(f"{sentence} in {name}", make)


def tree_change(random: Random) -> tuple[str, Callable[[Any], Any]]:
    """Return a change of one node of a tree, in words and as a function that returns the tree."""
    where, how = random.random(), random.choice(["odd", "odd", "odd", "gone", "more", "payload"])
    value = payload() if how == "payload" else odd_value(random)
    extra = random.choice(["x", "", "é", "_target_", "a.b", "hydra", "../x", "defaults", "step"])
    shown = repr(value) if not isinstance(value, list | int) else type(value).__name__

    def change(tree: Any) -> Any:
        spots = list(_spots(tree))
        if not spots:
            return value
        holder, key = spots[int(where * len(spots))]
        if how == "gone":
            del holder[key]
        elif how == "more" and isinstance(holder, dict):
            holder[extra] = value
        else:
            holder[key] = value
        return tree

    return f"at {where:.0%} of the values: {how}, {extra!r}, {shown[:80]}", change


def as_yaml(tree: Any) -> str:
    """Return YAML, which is also JSON: PyYAML's own writer refuses what is odd."""
    limit = sys.getrecursionlimit()
    # The encoder calls itself for each level of a deep tree.
    sys.setrecursionlimit(20 * limit)
    try:
        return json.dumps(tree, indent=1, ensure_ascii=False)
    finally:
        sys.setrecursionlimit(limit)


def _spots(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place of a value: the list or dict that holds it, and its index or key."""
    found: list[tuple[Any, Any]] = []
    pending = [tree]
    while pending:
        node = pending.pop()
        keys = (
            list(node)
            if isinstance(node, dict)
            else range(len(node))
            if isinstance(node, list)
            else []
        )
        for key in keys:
            found.append((node, key))
            pending.append(node[key])
    return found

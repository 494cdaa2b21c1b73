"""What differs between runs, as few settings as say which run is which."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from wgan_cli.checking import flatten
from wgan_cli.config import GROUPS
from wgan_cli.report.runs import Run, as_value

# When a run looks at itself, and where its files are: none changes what is trained.
_BOOKKEEPING = {
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep_every",
    "eval_every",
    "metrics",
    "profile",
    "resume",
    "dataset.download",
    "dataset.workers",
    "dataset.in_memory",
    "dataset.recommended",
}
# The machine's, which change bits at most: these vary where somebody typed that they do.
_MACHINE = {"device", "threads", "compile", "graphs", "deterministic"}
# Where a known set's files are is no setting; of one's own images it says which they are.
_OWN_IMAGES = "image_folder"
ABSENT = "–"


@dataclass(frozen=True)
class Varied:
    """The settings that tell runs apart, seed aside, and those that change with them.

    `keys` are dotted, a group's name standing for its option; `followers` differ too, but are
    determined by `keys`: what a data set recommends, say.
    """

    keys: tuple[str, ...]
    followers: tuple[str, ...]


def what_varied(runs: Sequence[Run]) -> Varied:
    """Settings that were typed and differ, then as many more as tell the runs apart."""
    flats = [settings_of(run) for run in runs]
    typed = list(dict.fromkeys(key for run in runs for key in run.typed))
    known = list(dict.fromkeys([*GROUPS, *(key for flat in flats for key in flat)]))
    differing = [
        key for key in known if _differs(key, flats) and (key not in _MACHINE or key in typed)
    ]

    def turn(key: str) -> tuple[int, int]:
        if key in typed:
            return 0, typed.index(key)
        return (1 if key in GROUPS else 2), known.index(key)

    keys: list[str] = []
    followers: list[str] = []
    # A run without a config knows only what was typed, and tells nothing of the rest.
    flats = [flat for flat, run in zip(flats, runs, strict=True) if run.config] or flats
    apart: list[tuple[Hashable, ...]] = [()] * len(flats)
    for key in sorted(differing, key=turn):
        finer = [(*cell, flat.get(key)) for cell, flat in zip(apart, flats, strict=True)]
        if key in typed or len(set(finer)) > len(set(apart)):
            keys.append(key)
            apart = finer
        else:
            followers.append(key)
    return Varied(tuple(keys), tuple(followers))


def settings_of(run: Run) -> dict[str, Hashable]:
    """Dotted key to value of all that is trained, a group's name to its option's name.

    Without a config, what was typed.
    """
    flat: dict[str, Hashable] = {}
    for key, value in run.config.items():
        if key in GROUPS and isinstance(value, dict):
            flat[key] = str(run.typed.get(key) or value.get("name") or value.get("_target_"))
            inner = {name: node for name, node in value.items() if name not in ("name", "_target_")}
            flat |= {
                setting: _hashable(leaf) for setting, leaf in flatten(inner, key).items() if inner
            }
        else:
            flat |= {setting: _hashable(leaf) for setting, leaf in flatten({key: value}).items()}
    if not run.config:
        flat |= {key: _hashable(as_value(text)) for key, text in run.typed.items()}
    return {key: value for key, value in flat.items() if not _apart(key, flat)}


def shown(value: Any) -> str:
    """A setting's value as it is typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def in_words(keys: Sequence[str], values: Sequence[Any]) -> str:
    """`loss=hinge clip=0.01`; what a run has no value for is left out."""
    pairs = zip(keys, values, strict=True)
    return " ".join(f"{key}={shown(value)}" for key, value in pairs if value != ABSENT)


def _apart(key: str, flat: dict[str, Hashable]) -> bool:
    if key == "dataset.root":
        return flat.get("dataset") != _OWN_IMAGES
    return key == "seed" or any(key == name or key.startswith(f"{name}.") for name in _BOOKKEEPING)


def _differs(key: str, flats: Sequence[dict[str, Hashable]]) -> bool:
    """Whether runs have different values; of an option's setting, runs with the same option."""
    group = key.partition(".")[0]
    within = group if group in GROUPS and group != key else None
    values: dict[Any, set[Hashable]] = {}
    for flat in flats:
        if key in flat:
            values.setdefault(flat.get(within) if within else None, set()).add(flat[key])
    return any(len(found) > 1 for found in values.values())


def _hashable(value: Any) -> Hashable:
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return json.dumps(value, default=str, separators=(",", ":"))

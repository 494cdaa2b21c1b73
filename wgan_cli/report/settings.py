"""Flatten a run's settings into comparable values, and format them as overrides."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

from wgan_cli.config import GROUPS
from wgan_cli.search.space import as_overrides
from wgan_cli.untrusted_files import parse_yaml
from wgan_cli.validation import flatten

# Settings that do not affect training, such as logging intervals; also the seed.
_BOOKKEEPING = (
    "seed",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep_every",
    "eval_every",
    "metrics",
    "profile",
    "logger",
    "resume",
    "dataset.download",
    "dataset.workers",
    "dataset.in_memory",
    "dataset.recommended",
)
# The text for a value that a run does not have.
ABSENT = "–"


def flat_settings(config: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Hashable]:
    """Return the settings that affect training, by dotted key, without the seed.

    For a config group such as `loss`, the value is the name of the chosen option, for example
    `hinge`. If `config` is empty, the settings are the `overrides` that the user gave.
    """
    flat: dict[str, Hashable] = {}
    for key, node in config.items():
        if key in GROUPS and isinstance(node, dict):
            flat[key] = str(overrides.get(key) or node.get("name") or node.get("_target_"))
            node = {name: value for name, value in node.items() if name not in ("name", "_target_")}
            if not node:
                continue
        flat |= {name: _comparable(leaf) for name, leaf in flatten(node, key).items()}
    if not config:
        flat = {key: _comparable(parse_value(text)) for key, text in overrides.items()}
    return {key: value for key, value in flat.items() if not _is_bookkeeping(key, flat)}


def parse_value(text: str) -> Any:
    """Return an override's value parsed as in a config: `1e-4` is a number, `true` a boolean."""
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def overrides_text(values: Mapping[str, Any]) -> str:
    """Return settings as text such as `loss=hinge clip=0.01`; `ABSENT` values are left out."""
    return " ".join(as_overrides({k: value for k, value in values.items() if value != ABSENT}))


def _is_bookkeeping(key: str, flat: Mapping[str, Hashable]) -> bool:
    # The path matters only for the data set image_folder, because it determines the images.
    if key == "dataset.root":
        return flat.get("dataset") != "image_folder"
    return any(key == name or key.startswith(f"{name}.") for name in _BOOKKEEPING)


def _comparable(value: Any) -> Hashable:
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return json.dumps(value, default=str, separators=(",", ":"))

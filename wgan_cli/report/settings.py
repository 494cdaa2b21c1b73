"""A run's settings as flat, comparable values, and the words that set them."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import yaml

from wgan_cli.config import GROUPS
from wgan_cli.validation import flatten

# When a run looks at itself, and how its files come in: none changes what is trained.
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
# Where a known set's files are is no setting; of one's own images it says which they are.
_OWN_IMAGES = "image_folder"
# What stands for a value that a run does not have.
ABSENT = "–"


def flat_settings(config: Mapping[str, Any], typed: Mapping[str, str]) -> dict[str, Hashable]:
    """Dotted key to value of all that is trained but the seed, a group's name to its option's.

    Of a run without a config, what was `typed`.
    """
    flat: dict[str, Hashable] = {}
    for key, node in config.items():
        if key in GROUPS and isinstance(node, dict):
            flat[key] = str(typed.get(key) or node.get("name") or node.get("_target_"))
            node = {name: value for name, value in node.items() if name not in ("name", "_target_")}
            if not node:
                continue
        flat |= {name: _comparable(leaf) for name, leaf in flatten(node, key).items()}
    if not config:
        flat = {key: _comparable(as_value(text)) for key, text in typed.items()}
    return {key: value for key, value in flat.items() if not _is_bookkeeping(key, flat)}


def read_yaml(text: str) -> Any:
    """What YAML text holds. Raises YAMLError."""
    # A run's own file has no aliases, and a few of them can stand for gigabytes.
    if "&" in text and any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text, _Loader)):
        raise yaml.YAMLError("aliases")
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def as_value(text: str) -> Any:
    """A typed value as a config holds it: 1e-4 is a number, true is true."""
    try:
        return read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


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


def _is_bookkeeping(key: str, flat: Mapping[str, Hashable]) -> bool:
    if key == "dataset.root":
        return flat.get("dataset") != _OWN_IMAGES
    return any(key == name or key.startswith(f"{name}.") for name in _BOOKKEEPING)


def _comparable(value: Any) -> Hashable:
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return json.dumps(value, default=str, separators=(",", ":"))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML with omegaconf's numbers, eighteen times as fast: there may be hundreds of files."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$", re.I),
    list("-+0123456789."),
)

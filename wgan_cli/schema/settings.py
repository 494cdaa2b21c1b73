"""Declare a setting as a dataclass field with the range of its values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


def setting(
    *,
    default: Any = MISSING,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
    choices: tuple[str, ...] | tuple[int, ...] | None = None,
) -> Any:
    """Return a dataclass field with a range; the default is usually in YAML instead of here."""
    limits = {
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "below": below,
        "multiple_of": multiple_of,
        "choices": choices,
    }
    metadata = {k: v for k, v in limits.items() if v is not None}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass
class NamedConfig:
    """A component that has only a name."""

    _target_: str = MISSING
    name: str = MISSING

"""Declare a setting as a dataclass field with the range of its values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from omegaconf import MISSING

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Limits(TypedDict, total=False):
    """The range of a setting's values."""

    at_least: float
    above: float
    at_most: float
    below: float
    multiple_of: int
    choices: tuple[str, ...] | tuple[int, ...]


def setting(*, default: Any = MISSING, **limits: Unpack[Limits]) -> Any:
    """Return a dataclass field with limits for its values. Most defaults are in YAML, not here."""
    assert limits.keys() <= Limits.__annotations__.keys(), limits
    return dataclasses.field(default=default, metadata=limits)


@dataclass
class NamedConfig:
    """Settings of a component that has only a name."""

    _target_: str = MISSING
    name: str = MISSING

"""What a component without settings has."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class NamedConfig:
    """A component without settings of its own."""

    _target_: str = MISSING
    name: str = MISSING

"""What a search tries first: the defaults, as far as its space holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wgan_cli.search.space import Choices, Range, Search, Value, word


def defaults_in(search: Search, config: Mapping[str, Any]) -> dict[str, Value]:
    """The settings searched that a filled config has within their ranges, with its values."""
    found: dict[str, Value] = {}
    for key, entry in search.settings.items():
        for same in _within(entry, _value(config, key)):
            found[key] = same
    return found


def _value(config: Mapping[str, Any], key: str) -> Any:
    """A setting's value; a group's is its option's name."""
    node: Any = config
    *above, last = key.split(".")
    for part in above:
        node = node.get(part) if isinstance(node, Mapping) else None
    value = node.get(last) if isinstance(node, Mapping) else None
    if value is None and len(above) > 1:
        # As optimizer.critic.lr, which takes optimizer.lr where it is null.
        return _value(config, ".".join([*above[:-1], last]))
    return value.get("name") if isinstance(value, Mapping) else value


def _within(entry: Range | Choices, value: Any) -> list[Value]:
    """The entry's own value that is this one, if there is one."""
    if isinstance(entry, Choices):
        return [choice for choice in entry.ends() if word(choice) == word(value)]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return []
    if not entry.low <= value <= entry.high or (entry.whole and value != int(value)):
        return []
    steps = (value - entry.low) / entry.step if entry.step else 0.0
    # A step of 0.1 is none of a float's.
    if abs(steps - round(steps)) > 1e-9:
        return []
    return [int(value) if entry.whole else float(value)]

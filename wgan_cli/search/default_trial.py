"""Choose the settings of a search's first trial: the defaults that lie within the space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wgan_cli.search.space import Choices, Range, Search, Value, value_text


def default_values(search: Search, config: Mapping[str, Any]) -> dict[str, Value]:
    """Return the config's value of each searched setting, if the search space includes it."""
    defaults: dict[str, Value] = {}
    for key, entry in search.settings.items():
        value = _config_value(config, key)
        if isinstance(entry, Choices):
            for choice in entry.values:
                if value_text(choice) == value_text(value):
                    defaults[key] = choice
        elif _in_range(entry, value):
            defaults[key] = int(value) if entry.integer else float(value)
    return defaults


def _config_value(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of the setting `key`; for a group, return the name of its option."""
    node: Any = config
    *groups, last = key.split(".")
    for group in groups:
        node = node.get(group) if isinstance(node, Mapping) else None
    value = node.get(last) if isinstance(node, Mapping) else None
    if value is None and len(groups) > 1:
        # If optimizer.critic.lr is null, optimizer.lr applies.
        return _config_value(config, ".".join([*groups[:-1], last]))
    return value.get("name") if isinstance(value, Mapping) else value


def _in_range(entry: Range, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not entry.low <= value <= entry.high or (entry.integer and value != int(value)):
        return False
    steps = (value - entry.low) / entry.step if entry.step else 0.0
    # Allow a tolerance: a step such as 0.1 is not exact in floating point.
    return abs(steps - round(steps)) <= 1e-9

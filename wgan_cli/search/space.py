"""Read a search's YAML: the metric, the space of settings, the sampler and the pruner."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from wgan_cli.errors import ConfigError
from wgan_cli.run_folder import read_settings
from wgan_cli.schema.settings import setting
from wgan_cli.validation import flatten, override_key, typed

Value = float | int | str | bool | None


@dataclass
class SamplerConfig:
    """The sampler's settings. Equal seeds and equal earlier results give equal proposals."""

    name: str = setting(default="tpe", choices=("tpe", "random"))
    seed: int = setting(default=0, at_least=0, at_most=2**32 - 1)


@dataclass
class PrunerConfig:
    """The pruner's settings: `median` stops a trial that is worse than the finished trials' median.

    No trial is pruned before its generator update `first_step`, or before `warmup_trials` trials
    have finished.
    """

    name: str = setting(default="median", choices=("median", "none"))
    first_step: int = setting(default=0, at_least=0)
    warmup_trials: int = setting(default=5, at_least=1)


@dataclass
class Search:
    """A search as defined in its YAML file. `words` are the overrides that every trial uses."""

    metric: str = setting(default="wasserstein/exact")
    direction: str = setting(default="minimize", choices=("minimize", "maximize"))
    trials: int = setting(default=30, at_least=1, at_most=1_000_000)
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    pruner: PrunerConfig = dataclasses.field(default_factory=PrunerConfig)
    words: list[str] = dataclasses.field(default_factory=list)
    space: dict[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def settings(self) -> dict[str, Range | Choices]:
        """The parsed space: maps each setting's key to its range or choices."""
        return {key: _entry(key, node) for key, node in self.space.items()}

    def corners(self) -> Iterator[list[str]]:
        """Yield the overrides of trials that together cover the ends of each range and all choices.

        wgan-train checks the type and limits of each setting separately. So if these trials are
        valid, all trials are valid.
        """
        extremes = {key: entry.extremes() for key, entry in self.settings.items()}
        for i in range(max(map(len, extremes.values()))):
            chosen = {key: values[min(i, len(values) - 1)] for key, values in extremes.items()}
            yield [*self.words, *as_overrides(chosen)]


@dataclass
class Range:
    """Numbers from `low` to `high`, both included, optionally on a log scale or in steps.

    The numbers are integers if `low`, `high` and `step` are integers.
    """

    low: float = setting()
    high: float = setting()
    log: bool = setting(default=False)
    step: float | None = setting(default=None, above=0)
    integer: bool = setting(default=False)

    def extremes(self) -> list[Value]:
        """Return the lowest and the highest number."""
        return [int(end) if self.integer else end for end in (self.low, self.high)]

    def rounded(self, value: float) -> float:
        """Return the value rounded to six digits, within the range.

        The trial then trains with exactly the number that reports show and that a user can type.
        """
        return min(max(float(f"{value:.6g}"), self.low), self.high)


@dataclass
class Choices:
    """A choice between values. A value that is a list is stored as override text."""

    values: list[Value]

    def extremes(self) -> list[Value]:
        """Return all values, because choices have no order and so no lowest or highest value."""
        return self.values


def read_search(path: Path) -> Search:
    """Return the search in a YAML file. Raises `ConfigError` if it is unreadable or invalid."""
    return parse_search(read_settings(path), path)


def parse_search(node: Any, path: Path) -> Search:
    """Return the search in `node`, read from file `path`. Raises `ConfigError` if it is invalid."""
    try:
        if not isinstance(node, dict) or not isinstance(node.get("space"), dict):
            raise ConfigError("a search needs space: with a setting and its range on each line.")
        if not _is_printable(node):
            raise ConfigError("a search has no control characters in its texts.")
        plain = {str(key): value for key, value in node.items()}
        space = {str(key): value for key, value in plain.pop("space").items()}
        search: Search = typed(Search, plain, "")
        search.space = space
        if not search.settings:
            raise ConfigError("space: is empty; it needs at least one setting.")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return search


def _is_printable(node: Any) -> bool:
    if isinstance(node, dict):
        node = [*node, *node.values()]
    if isinstance(node, list):
        return all(map(_is_printable, node))
    return not isinstance(node, str) or node.isprintable()


def as_overrides(values: Mapping[str, Value]) -> list[str]:
    """Return settings as a list of overrides for wgan-train."""
    return [f"{key}={value_text(value)}" for key, value in values.items()]


def value_text(value: Any) -> str:
    """Return a value as override text, with floats at full precision."""
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, float) else str(value)


def with_overrides(search: Search, overrides: Sequence[str]) -> Search:
    """Return the search with more overrides. The settings in these overrides are not searched."""
    fixed = {override_key(override) for override in overrides}
    # An override that is typed again stays in its place: the search is the same.
    kept = [
        override
        for override in search.words
        if override in overrides or override_key(override) not in fixed
    ]
    added = [override for override in overrides if override not in kept]
    space = {key: node for key, node in search.space.items() if key not in fixed}
    if not space:
        raise ConfigError("The overrides fix every setting of the space: none is left to search.")
    return dataclasses.replace(search, words=[*kept, *added], space=space)


def _entry(key: str, node: Any) -> Range | Choices:
    path = f"space.{key}"
    if isinstance(node, dict) and "choices" in node:
        return _choices(path, node)
    if not isinstance(node, dict):
        raise ConfigError(
            f"{path} must be {{low: …, high: …}} or {{choices: […]}}, not {value_text(node)}."
        )
    if "integer" in node:
        raise ConfigError(f"{path}.integer is no setting: if low and high are integers, all are.")
    numbers = [node.get(name) for name in ("low", "high", "step")]
    integer = all(isinstance(number, int) for number in numbers if number is not None)
    entry: Range = typed(Range, {**node, "integer": integer}, path)
    if entry.low >= entry.high:
        raise ConfigError(
            f"{path}: low must be below high, and {entry.low:g} is not below {entry.high:g}."
        )
    if entry.log and entry.low <= 0:
        raise ConfigError(f"{path}: low must be above 0 on a log scale, not {entry.low:g}.")
    if entry.log and entry.step is not None:
        raise ConfigError(f"{path}: log and step cannot go together; leave one of them out.")
    if entry.step is not None:
        low, high, step = (Decimal(str(number)) for number in (entry.low, entry.high, entry.step))
        if (high - low) % step:
            raise ConfigError(
                f"{path}: no whole number of steps of {entry.step:g} leads from {entry.low:g} to"
                f" {entry.high:g}."
            )
    return entry


def _choices(path: str, node: dict[Any, Any]) -> Choices:
    items, others = node["choices"], [key for key in node if key != "choices"]
    if others:
        raise ConfigError(f"{path}.{others[0]} cannot be combined with choices.")
    if not isinstance(items, list) or len(items) < 2:
        raise ConfigError(f"{path}.choices must be a list of at least two values.")
    for item in items:
        if isinstance(item, dict) or (isinstance(item, float) and not math.isfinite(item)):
            raise ConfigError(f"{path}.choices: {item} cannot be the value of a setting.")
    if len(set(map(value_text, items))) < len(items):
        raise ConfigError(f"{path}.choices contains a value twice.")
    return Choices([value_text(item) if isinstance(item, list) else item for item in items])


def default_values(search: Search, config: dict[str, Any]) -> dict[str, Value]:
    """Return the config's value of each searched setting, if the space includes this value."""
    defaults: dict[str, Value] = {}
    flat = flatten(config)
    for key, entry in search.settings.items():
        value = _config_value(flat, key)
        if isinstance(entry, Choices):
            for choice in entry.values:
                if value_text(choice) == value_text(value):
                    defaults[key] = choice
        elif _in_range(entry, value):
            defaults[key] = int(value) if entry.integer else float(value)
    return defaults


def _config_value(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of `key` in a flat config; for a group, return the name of its option."""
    value = config.get(key, config.get(f"{key}.name"))
    groups, _, last = key.rpartition(".")
    if value is None and "." in groups:
        # If optimizer.critic.lr is null, optimizer.lr applies.
        return _config_value(config, f"{groups.rpartition('.')[0]}.{last}")
    return value


def _in_range(entry: Range, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not entry.low <= value <= entry.high or (entry.integer and value != int(value)):
        return False
    steps = (value - entry.low) / entry.step if entry.step else 0.0
    # Allow a tolerance: a step such as 0.1 is not exact in floating point.
    return abs(steps - round(steps)) <= 1e-9

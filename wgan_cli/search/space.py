"""What a search is: the number it improves, the settings it tries, and how; read from YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from wgan_cli.errors import ConfigError
from wgan_cli.schema.settings import setting
from wgan_cli.validation import typed

Value = float | int | str | bool | None


@dataclass
class SamplerConfig:
    """What proposes settings. The same seed proposes the same where the trials ended alike."""

    name: str = setting(default="tpe", choices=("tpe", "random"))
    seed: int = setting(default=0, at_least=0, at_most=2**32 - 1)


@dataclass
class PrunerConfig:
    """What ends a trial early: median ends one that is worse than half of the finished ones.

    None before step `first_step`, in generator updates, nor before `warmup_trials` have finished.
    """

    name: str = setting(default="median", choices=("median", "none"))
    first_step: int = setting(default=0, at_least=0)
    warmup_trials: int = setting(default=5, at_least=1)


@dataclass
class Search:
    """A search as its YAML gives it. `words` are wgan-train's, the same for every trial."""

    metric: str = setting(default="wasserstein/exact")
    direction: str = setting(default="minimize", choices=("minimize", "maximize"))
    trials: int = setting(default=30, at_least=1, at_most=1_000_000)
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    pruner: PrunerConfig = dataclasses.field(default_factory=PrunerConfig)
    words: list[str] = dataclasses.field(default_factory=list)
    space: dict[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def settings(self) -> dict[str, Range | Choices]:
        """The space, an object a setting."""
        return {key: _entry(key, node) for key, node in self.space.items()}

    def corners(self) -> Iterator[list[str]]:
        """Words for trials at both ends of every range, in which each choice stands once at least.

        Types and limits of settings depend on one value at a time, so what composes at these
        composes everywhere between.
        """
        ends = {key: entry.ends() for key, entry in self.settings.items()}
        for place in range(max(map(len, ends.values()))):
            chosen = {key: values[min(place, len(values) - 1)] for key, values in ends.items()}
            yield [*self.words, *as_words(chosen)]


@dataclass
class Range:
    """Numbers from `low` to `high`, both included, on a log scale or in steps where that is said.

    Whole ones where all that is given is whole.
    """

    low: float = setting()
    high: float = setting()
    log: bool = setting(default=False)
    step: float | None = setting(default=None, above=0)
    whole: bool = setting(default=False)

    def ends(self) -> list[Value]:
        """The lowest and the highest."""
        return [int(end) if self.whole else end for end in (self.low, self.high)]

    def tidy(self, value: float) -> float:
        """The value as it is trained: to six digits, which is what people read and type."""
        return min(max(float(f"{value:.6g}"), self.low), self.high)


@dataclass
class Choices:
    """Any of these; a list is kept as the word that it makes."""

    choices: list[Any]

    def ends(self) -> list[Value]:
        """All of them."""
        return [word(item) if isinstance(item, list) else item for item in self.choices]


def read_search(path: Path) -> Search:
    """A search from its YAML file. Raises `ConfigError`."""
    try:
        node = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    return checked(node, path)


def checked(node: Any, path: Path) -> Search:
    """What a file at `path` holds as a search. Raises `ConfigError`."""
    try:
        if not isinstance(node, dict) or not isinstance(node.get("space"), dict):
            raise ConfigError("a search holds space: with a setting and its range on each line.")
        plain = {str(key): value for key, value in node.items()}
        space = {str(key): value for key, value in plain.pop("space").items()}
        search: Search = typed(Search, plain, "")
        search.space = space
        if not search.settings:
            raise ConfigError("space: holds no setting.")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return search


def as_words(values: Mapping[str, Value]) -> list[str]:
    """wgan-train's words for these settings."""
    return [f"{key}={word(value)}" for key, value in values.items()]


def word(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(word, value))}]"
    plain = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return plain[value]
    return repr(value) if isinstance(value, float) else str(value)


def key_of(text: str) -> str:
    """The setting that a word is about."""
    return text.partition("=")[0].lstrip("+~")


def with_words(search: Search, words: Sequence[str]) -> Search:
    """The search with these words too: a setting that is typed is fixed, and no longer searched."""
    named = {key_of(text) for text in words}
    kept = [text for text in search.words if key_of(text) not in named]
    space = {key: node for key, node in search.space.items() if key not in named}
    if not space:
        raise ConfigError("The words typed fix every setting of the space: none is left to search.")
    return dataclasses.replace(search, words=[*kept, *words], space=space)


def _entry(key: str, node: Any) -> Range | Choices:
    path = f"space.{key}"
    if isinstance(node, dict) and "choices" in node:
        return _choices(path, node)
    if not isinstance(node, dict):
        raise ConfigError(
            f"{path} must be {{low: …, high: …}} or {{choices: […]}}, not {word(node)}."
        )
    if "whole" in node:
        raise ConfigError(f"{path}.whole is no setting: whole ends give whole numbers.")
    numbers = [node.get(name) for name in ("low", "high", "step")]
    whole = all(isinstance(number, int) for number in numbers if number is not None)
    entry: Range = typed(Range, {**node, "whole": whole}, path)
    if entry.low >= entry.high:
        raise ConfigError(
            f"{path}: low must be below high, and {entry.low:g} is not below {entry.high:g}."
        )
    if entry.log and entry.low <= 0:
        raise ConfigError(f"{path}: a log scale has no {entry.low:g}; low must be above 0.")
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
        raise ConfigError(f"{path}.{others[0]} is no setting: choices stand alone.")
    if not isinstance(items, list) or len(items) < 2:
        raise ConfigError(f"{path}.choices must be a list of two values or more.")
    for item in items:
        if isinstance(item, dict) or (isinstance(item, float) and not math.isfinite(item)):
            raise ConfigError(f"{path}.choices: {item} is no value that can be typed.")
    if len(set(map(word, items))) < len(items):
        raise ConfigError(f"{path}.choices holds a value twice.")
    return Choices(items)

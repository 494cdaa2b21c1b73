"""List the values of a sweep and its jobs, from overrides such as `seed=1,2` or `range(1,5)`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydra.core.override_parser.types import Glob, Override, RangeSweep, Transformer
from hydra.errors import HydraException

from wgan_cli.errors import ConfigError

# A sweep of more jobs is a slip: checking their values alone would take hours.
MOST_JOBS = 10_000


def values_of(
    overrides: Sequence[Override], options_of: Callable[[str], Sequence[str]]
) -> dict[str, list[str]]:
    """Return one override per value for each key.

    `options_of` returns the options of a group, among which `glob(...)` chooses. Raises
    `ConfigError` for a continuous sweep, one without values and one that is too large.
    """
    values = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_discrete_sweep():
            values[key] = [f"{key}={text}" for text in _texts(override, options_of)]
        elif override.is_sweep_override():
            raise ConfigError(
                f"{override.input_line}: the basic sweeper takes lists of values (0.1,0.2)."
            )
        else:
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    return values


def _texts(override: Override, options_of: Callable[[str], Sequence[str]]) -> list[str]:
    word = override.input_line
    value: Any = override.value()
    texts: Iterable[str]
    try:
        if isinstance(value, Glob):
            texts = value.filter(list(options_of(override.key_or_group)))
        elif isinstance(value, RangeSweep):
            # Not the override's own iterator, which lists a shuffled range first, however long.
            texts = map(Transformer.str, value.range())
        else:
            texts = override.sweep_string_iterator()
        found = list(itertools.islice(texts, MOST_JOBS + 1))
    # Hydra computes a range of fractions with Decimals, which can raise an ArithmeticError.
    except (HydraException, ValueError, ArithmeticError) as error:
        raise ConfigError(f"{word}: {str(error).splitlines()[0].rstrip('.')}.") from None
    if not found:
        raise ConfigError(f"{word} holds no value.")
    if len(found) > MOST_JOBS:
        raise ConfigError(f"{word} holds more than {MOST_JOBS} values, and no sweep may.")
    return found


def check_count(choices: Sequence[Sequence[str]]) -> None:
    """Raise `ConfigError` if a sweep over all combinations of the choices has too many jobs."""
    count = math.prod(map(len, choices))
    if count > MOST_JOBS:
        raise ConfigError(f"The sweep has {count} jobs, and at most {MOST_JOBS} are allowed.")


def jobs_of(choices: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of every job of a sweep: one list for each combination of choices."""
    return [list(job) for job in itertools.product(*choices)]


def samples_of(choices: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the overrides of a few jobs that together contain every value of a sweep.

    In each job, at most one key differs from its first value. Keys and types are checked value by
    value, so checking these jobs is enough to check all combinations.
    """
    base = [values[0] for values in choices]
    changed = [
        [*base[:index], value, *base[index + 1 :]]
        for index, values in enumerate(choices)
        for value in values[1:]
    ]
    return [base, *changed]

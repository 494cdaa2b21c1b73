"""What differs between runs, as few settings as say which run is which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from wgan_cli.config import GROUPS
from wgan_cli.report.runs import Run
from wgan_cli.report.settings import ABSENT, in_words

# The machine's, which change bits at most: these vary where somebody typed that they do.
_MACHINE = {"device", "threads", "compile", "graphs", "deterministic"}
# Of more settings than this a run's row names those alone that are not as in most runs.
MANY = 6


@dataclass(frozen=True)
class Varied:
    """The settings that tell runs apart, seed aside, and those that change with them.

    `keys` are dotted, a group's name standing for its option; `followers` differ too, but are
    determined by `keys`: what a data set recommends, say. `usual` holds the values of most runs
    where there are many keys.
    """

    keys: tuple[str, ...]
    followers: tuple[str, ...]
    usual: Mapping[str, Hashable]

    def values(self, run: Run) -> tuple[Hashable, ...]:
        """The run's values of the keys, `ABSENT` where it has none."""
        return tuple(run.settings.get(key, ABSENT) for key in self.keys)

    def words(self, values: Sequence[Hashable]) -> str:
        """What to type for these values of the keys."""
        named = [
            (key, value)
            for key, value in zip(self.keys, values, strict=True)
            if key not in self.usual or self.usual[key] != value
        ]
        return in_words([key for key, _ in named], [value for _, value in named])


def what_varied(runs: Sequence[Run]) -> Varied:
    """Settings that were typed and differ, then as many more as tell the runs apart."""
    typed = list(dict.fromkeys(key for run in runs for key in run.typed))
    known = list(dict.fromkeys([*GROUPS, *(key for run in runs for key in run.settings)]))
    flats = [run.settings for run in runs]
    differing = [
        key for key in known if _differs(key, flats) and (key not in _MACHINE or key in typed)
    ]

    def turn(key: str) -> tuple[int, int]:
        if key in typed:
            return 0, typed.index(key)
        return (1 if key in GROUPS else 2), known.index(key)

    keys: list[str] = []
    followers: list[str] = []
    # A run without a config knows only what was typed, and tells nothing of the rest.
    flats = [run.settings for run in runs if run.config] or flats
    apart: list[tuple[Hashable, ...]] = [()] * len(flats)
    for key in sorted(differing, key=turn):
        finer = [(*cell, flat.get(key)) for cell, flat in zip(apart, flats, strict=True)]
        if key in typed or len(set(finer)) > len(set(apart)):
            keys.append(key)
            apart = finer
        else:
            followers.append(key)
    usual = {key: _most_common(key, flats) for key in keys} if len(keys) > MANY else {}
    return Varied(tuple(keys), tuple(followers), usual)


def _differs(key: str, flats: Sequence[Mapping[str, Hashable]]) -> bool:
    """Whether runs have different values; of an option's setting, runs with the same option."""
    group = key.partition(".")[0]
    within = group if group in GROUPS and group != key else None
    values: dict[Hashable, set[Hashable]] = {}
    for flat in flats:
        if key in flat:
            values.setdefault(flat.get(within) if within else None, set()).add(flat[key])
    return any(len(found) > 1 for found in values.values())


def _most_common(key: str, flats: Sequence[Mapping[str, Hashable]]) -> Hashable:
    return Counter(flat[key] for flat in flats if key in flat).most_common(1)[0][0]

"""Find a small set of settings that distinguishes the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from wgan_cli.config import GROUPS
from wgan_cli.report.runs import Run
from wgan_cli.report.settings import ABSENT, overrides_text

# Hardware settings affect results only by rounding. They count as varying only if typed.
_MACHINE = {"device", "threads", "compile", "graphs", "deterministic"}
# With more varying settings than this, a row shows only values that are not the most common ones.
MAX_COLUMNS = 6


@dataclass(frozen=True)
class VaryingSettings:
    """The settings that differ between runs, without the seed.

    `keys` are the dotted keys that distinguish the runs; a group's key stands for its option.
    `dependent` are keys whose values follow from the values of `keys`, such as settings that a data
    set recommends. `common` maps each key to its most common value if there are more than
    `MAX_COLUMNS` keys, and is empty otherwise.
    """

    keys: tuple[str, ...]
    dependent: tuple[str, ...]
    common: Mapping[str, Hashable]

    def values(self, run: Run) -> tuple[Hashable, ...]:
        """Return the run's value for each of `keys`, `ABSENT` for a missing one."""
        return tuple(run.settings.get(key, ABSENT) for key in self.keys)

    def label(self, values: Sequence[Hashable]) -> str:
        """Return the values of `keys` as override text; leave out values that are in `common`."""
        missing = object()
        pairs = zip(self.keys, values, strict=True)
        return overrides_text({k: v for k, v in pairs if self.common.get(k, missing) != v})


def find_varying_settings(runs: Sequence[Run]) -> VaryingSettings:
    """Return the typed settings that differ, and other settings needed to distinguish the runs."""
    typed = list(dict.fromkeys(key for run in runs for key in run.override_values))
    known = list(dict.fromkeys([*GROUPS, *(key for run in runs for key in run.settings)]))
    flats = [run.settings for run in runs]
    differing = [
        key for key in known if _differs(key, flats) and (key not in _MACHINE or key in typed)
    ]

    def order(key: str) -> tuple[int, int]:
        if key in typed:
            return 0, typed.index(key)
        return (1 if key in GROUPS else 2), known.index(key)

    keys: list[str] = []
    dependent: list[str] = []
    # Leave out runs without a config, of which only the typed settings are known.
    flats = [run.settings for run in runs if run.config] or flats
    # Each run's values of the chosen keys. Add a key if it distinguishes runs with equal values.
    values: list[tuple[Hashable, ...]] = [()] * len(flats)
    for key in sorted(differing, key=order):
        extended = [(*before, flat.get(key)) for before, flat in zip(values, flats, strict=True)]
        if key in typed or len(set(extended)) > len(set(values)):
            keys.append(key)
            values = extended
        else:
            dependent.append(key)
    common: dict[str, Hashable] = {}
    if len(keys) > MAX_COLUMNS:
        columns = {key: Counter(flat[key] for flat in flats if key in flat) for key in keys}
        common = {key: counts.most_common(1)[0][0] for key, counts in columns.items()}
    return VaryingSettings(tuple(keys), tuple(dependent), common)


def _differs(key: str, flats: Sequence[Mapping[str, Hashable]]) -> bool:
    """Return whether two runs have different values of the setting `key`.

    A setting inside a group is compared only between runs with the same option of that group.
    """
    group = key.partition(".")[0]
    within = group if group in GROUPS and group != key else None
    values: dict[Hashable, set[Hashable]] = {}
    for flat in flats:
        if key in flat:
            values.setdefault(flat.get(within) if within else None, set()).add(flat[key])
    return any(len(different) > 1 for different in values.values())

"""Check the words of a search that come from a file: they may set settings, but not run code."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from wgan_cli.commands.composition import ONE_OPTION, Composer, without_hydra
from wgan_cli.commands.trust import check_trusted, targets
from wgan_cli.errors import CheckpointError, ConfigError

SEVERAL_VALUES = (
    "A word holds one value for all trials; values to try go into the space, as {choices: [a, b]}."
)
_GROUPS = (*ONE_OPTION, "logger")
# Keys that decide what Hydra reads or calls. Names in underscores, as `_target_`, do, too.
_SPECIAL = ("hydra", "defaults", "traits")


def refuse_unsafe(words: Sequence[str]) -> None:
    """Raise `ConfigError` for a word that is more than a setting of wgan-train with a plain value.

    Call this before Hydra composes the words: composing may read any file and import packages.
    """
    for word in words:
        override = _parsed(word)
        if override is None:
            raise ConfigError(f"{word!r} cannot be read; write KEY=VALUE.")
        if override.is_sweep_override():
            raise ConfigError(SEVERAL_VALUES)
        value = override.value()
        if not _is_setting(override) or not _is_plain(value):
            raise ConfigError(
                f"{word}: in a file, a word may only choose options and set settings to plain"
                " values. If you trust this word, type it in the command."
            )
        if override.key_or_group in _GROUPS and not override.is_delete():
            for option in value if isinstance(value, list) else [value]:
                if not _is_option(option):
                    raise ConfigError(
                        f"{word}: {override.key_or_group} takes the name of one option."
                    )


def to_type_again(words: Sequence[str]) -> list[str]:
    """Return the words that a search does not take from its folder when it goes on."""
    again = []
    for word in words:
        try:
            refuse_unsafe([word])
        except ConfigError:
            again.append(word)
    return again


def typed_targets(words: Sequence[str]) -> list[str]:
    """Return the classes that only the user's own words name, in themselves or by their options.

    `wgan-train` would not build them from a file; see `trust.check_trusted`.
    """
    if not words:
        return []
    named: list[Any] = []
    for override in filter(None, map(_parsed, words)):
        if not override.is_delete():
            name = override.key_or_group.rpartition(".")[2]
            named += targets({name: override.value()})
    # If they need words of the file, --trust allows what their options name.
    with suppress(ConfigError):
        composed = without_hydra(Composer().compose(words))
        named += targets(OmegaConf.to_container(composed))
    texts = [target for target in named if isinstance(target, str)]
    return [target for target in dict.fromkeys(texts) if not _is_trusted(target)]


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, ValueError):
        return None


def _is_trusted(target: str) -> bool:
    try:
        check_trusted({"_target_": target}, ())
    except CheckpointError:
        return False
    return True


def _is_setting(override: Override) -> bool:
    """Return whether the key may be a setting or a group. Composing finds unknown ones."""
    key = override.key_or_group
    return override.package is None and "/" not in key and not any(map(_is_special, key.split(".")))


def _is_special(name: Any) -> bool:
    return not isinstance(name, str) or name in _SPECIAL or name.startswith("_")


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number or text without references, or holds only these."""
    if isinstance(value, dict):
        return not any(map(_is_special, value)) and _is_plain([*value, *value.values()])
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return "${" not in value and value.isprintable()
    return isinstance(value, int | float | None)


def _is_option(value: Any) -> bool:
    # A name with a slash or dots would be the path of a file elsewhere.
    return isinstance(value, str) and not set("/\\:@") & set(value) and ".." not in value

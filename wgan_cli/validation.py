"""Check a config node against a dataclass: types, keys and ranges; parse override texts."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import textwrap
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from wgan_cli.errors import ConfigError

# Limits for messages: the number of choices, and the characters of a value, shown in full.
_MOST_CHOICES = 8
_LONGEST = 80
# Maps each kind of limit to its words in a message and to a function that tests a value.
_LIMITS = {
    "at_least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("below", operator.lt),
    "multiple_of": ("a multiple of", lambda value, base: value % base == 0),
}


def typed(schema: type, node: dict[str, Any], path: str) -> Any:
    """Return `node` as an instance of `schema`. Raises `ConfigError`; `path` is for its message."""

    def at(key: str) -> str:
        return ".".join(filter(None, (path, key)))

    empty = OmegaConf.structured(schema)
    for field in dataclasses.fields(schema):
        given, group = node.get(field.name), _settings_within(field)
        if group is not None:
            # OmegaConf can merge into a frozen dataclass, but not into frozen dataclasses inside
            # it.
            OmegaConf.set_readonly(empty[field.name], False)
            if field.name in node and not isinstance(given, dict):
                inner = ", ".join(f.name for f in dataclasses.fields(group))
                raise ConfigError(
                    f"{at(field.name)} holds settings ({inner}); {_shown(given)} is none."
                )
        elif str(field.type).startswith("list") and isinstance(given, str):
            raise ConfigError(f"{at(field.name)} must be a list: {field.name}=[{_shown(given)}].")
    try:
        checked = OmegaConf.to_object(OmegaConf.merge(empty, node))
    except ConfigKeyError as error:
        plain = flatten(OmegaConf.to_container(OmegaConf.structured(schema)))
        # Do not suggest keys that users do not type.
        known = [at(key) for key in plain if key not in ("_target_", "name")]
        raise ConfigError(no_setting(at(str(error.full_key)), known)) from None
    except MissingMandatoryValue as error:
        key = str(error.full_key or "") or str(error).rsplit(" ", 1)[-1]
        raise ConfigError(f"{at(key)}: a value is needed.") from None
    except OmegaConfBaseException as error:
        # Name the list instead of its item: betas, not betas[0].
        key = str(error.full_key or "").partition("[")[0]
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(_type_message(schema, node, at(key), key, reason)) from None
    _check_ranges(checked, path, node)
    return checked


def _settings_within(field: dataclasses.Field[Any]) -> Any:
    """Return the dataclass of a field that holds nested settings, or None for other fields."""
    factory: Any = field.default_factory
    return factory if dataclasses.is_dataclass(factory) else None


def _type_message(schema: type, node: Any, path: str, key: str, reason: str) -> str:
    field: Any = None
    owner: Any = schema
    given = node
    for depth, part in enumerate(key.split(".")):
        field = {f.name: f for f in dataclasses.fields(owner)}.get(part)
        if field is None:
            return f"{path}: {reason}."
        given = given.get(part) if isinstance(given, dict) else None
        owner = _settings_within(field) or owner
        if str(field.type) == "dict[str, float]":
            path = path.rsplit(".", key.count(".") - depth)[0]
            break
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "list[float]": "a list of numbers",
        "list[str]": "a list of names",
        "dict[str, float]": "a number for each name",
    }
    kind, _, optional = str(field.type).partition(" | ")
    if kind not in words:
        return f"{path}: {reason}."
    wanted = words[kind] + (" or null" if optional else "")
    limits = _limits_in_words(field.metadata)
    return f"{path} must be {wanted}{', ' + limits if limits else ''}, not {_shown(given)}."


def _shown(value: Any) -> str:
    """Return a value as a user would type it, shortened for a message."""
    text = "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return textwrap.shorten(text, _LONGEST, placeholder=" ...") or "blank"


def _limits_in_words(limits: Any) -> str:
    choices = limits.get("choices", ())
    if len(choices) > _MOST_CHOICES:
        return f"one of {len(choices)} names ({', '.join(choices[:3])}, ...)"
    if choices:
        return "one of " + ", ".join(map(str, choices))
    return " and ".join(f"{_LIMITS[key][0]} {limits[key]}" for key in limits if key in _LIMITS)


def _check_ranges(checked: Any, path: str, raw: Any) -> None:
    for field in dataclasses.fields(checked):
        value = getattr(checked, field.name)
        key = f"{path}.{field.name}" if path else field.name
        given = raw.get(field.name) if isinstance(raw, dict) else None
        if dataclasses.is_dataclass(value):
            _check_ranges(value, key, given)
            continue
        if isinstance(given, bool) and isinstance(value, int) and not isinstance(value, bool):
            raise ConfigError(f"{key} must be a number, not {str(given).lower()}.")
        # Refuse numbers for booleans here, because OmegaConf would convert them without an error.
        if isinstance(value, bool) and isinstance(given, int | float) and given is not value:
            raise ConfigError(f"{key} must be true or false, not {given}.")
        items = value.values() if isinstance(value, dict) else value
        for item in items if isinstance(value, dict | list) else [value]:
            if isinstance(item, list | dict):
                raise ConfigError(f"{key} must hold single values, not {_shown(item)}.")
            if item is not None and not _within(item, field.metadata):
                raise ConfigError(_range_message(key, item, field.metadata))
        if field.name == "betas" and value is not None and len(value) != 2:
            raise ConfigError(f"{key} must be two numbers, as in [0.0,0.9], not {value}.")


def _range_message(key: str, value: Any, limits: Any) -> str:
    allowed, hint = _limits_in_words(limits), ""
    if value == "":
        return f"{key} must be {allowed or 'text'}, not empty."
    if isinstance(value, str):
        hint = nearest(value, list(limits["choices"]))
    elif isinstance(value, float) and not math.isfinite(value):
        allowed = f"a finite number {allowed}".rstrip()
    return f"{key} must be {allowed}, not {_shown(value)}.{hint}"


def _within(value: Any, limits: Any) -> bool:
    if isinstance(value, str):
        return value != "" and value in limits.get("choices", (value,))
    if not isinstance(value, int | float):
        return True
    return (
        value in limits.get("choices", (value,))
        and math.isfinite(value)
        and all(_LIMITS[key][1](value, limits[key]) for key in limits if key in _LIMITS)
    )


def is_writable(text: str) -> bool:
    """Return whether a file of the run can hold the text, and a path can contain it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return leaf values by dotted key: {"optimizer": {"lr": 1}} gives {"optimizer.lr": 1}."""
    if isinstance(node, dict) and node:
        flat: dict[str, Any] = {}
        for key, value in node.items():
            flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: node}


def no_setting(key: str, known: list[str]) -> str:
    """Return the message for an unknown setting `key`, with the most similar key in `known`."""
    return f"{key} is no setting.{nearest(key, known)}"


def nearest(word: str, known: list[str]) -> str:
    """Return `" Did you mean x?"` for the most similar known word, or "" if none is similar."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        by_last_part = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        last_part = word.rsplit(".", 1)[-1]
        matches = difflib.get_close_matches(last_part, list(by_last_part), n=1, cutoff=0.75)
        close = [by_last_part[match] for match in matches]
    return f" Did you mean {close[0]}?" if close else ""


def override_key(override: str) -> str:
    """Return the key of the setting that an override sets: `a.b` for `+a.b=1`."""
    return override.partition("=")[0].lstrip("+~")


def job_overrides(overrides: Sequence[str]) -> list[str]:
    """Return the overrides that define the job: all except `resume` and `hydra.*`."""
    return [
        override
        for override in overrides
        if (key := override_key(override)) != "resume" and not key.startswith(("hydra.", "hydra/"))
    ]

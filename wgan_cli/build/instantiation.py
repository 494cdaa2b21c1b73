"""Build objects from config nodes. Only this module calls Hydra's `instantiate`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate

from wgan_cli.errors import ConfigError, WganError

# Hydra logs the errors that it raises. Do not print this log: `called` translates the errors.
logging.getLogger("hydra").addHandler(logging.NullHandler())


def built(
    path: str, node: Mapping[str, Any], *, optional: Collection[str] = (), **facts: Any
) -> Any:
    """Build the object of a config node: call `_target_` with the node's settings and `facts`.

    `path` is the node's path in the config, for messages. Settings in `optional` are passed only if
    the target accepts them. Raises `ConfigError` as `maker` and `called` do.
    """
    target, accepts = maker(path, node)
    settings = {key: value for key, value in node.items() if key not in optional or accepts(key)}
    return called(path, settings, target, **facts)


def maker(path: str, node: Mapping[str, Any]) -> tuple[Callable[..., Any], Callable[[str], bool]]:
    """Return the class or function that `_target_` names, and a function `accepts`.

    `accepts(key)` returns True if the class or function accepts the keyword `key`. Raises
    `ConfigError` if the class or function does not exist.
    """
    name = node["_target_"]
    try:
        target = get_object(name)
    except Exception as error:
        reason = error.__cause__ or error
        raise ConfigError(f"{path}._target_={name} cannot be imported: {reason}") from error
    if not callable(target):
        raise ConfigError(f"{path}._target_={name} is neither a class nor a function.")
    parameters = inspect.signature(target).parameters
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return target, lambda key: any_keyword or key in parameters


def called(
    path: str,
    settings: Mapping[str, Any],
    target: Callable[..., Any],
    *arguments: Any,
    **facts: Any,
) -> Any:
    """Call `target` with `arguments`, `facts` and the node's settings; return its result.

    The node's `traits` are left out. Raises `ConfigError` if the target does not accept the
    arguments or fails; a `WganError` of the target is raised unchanged.
    """
    name = settings["_target_"]
    keywords = {key: value for key, value in settings.items() if key not in ("_target_", "traits")}
    try:
        inspect.signature(target).bind(*arguments, **keywords, **facts)
    except TypeError as error:
        raise ConfigError(f"{path} ({name}): {error}.") from None
    try:
        node = {"_target_": name, **keywords}
        return instantiate(node, _partial_=True, _convert_="all")(*arguments, **facts)
    except (HydraException, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, WganError):
            raise cause from None
        raise ConfigError(f"{path} ({name}): {cause}") from error

"""From a config node with a `_target_` to the object: the only caller of Hydra's `instantiate`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate

from wgan_cli.errors import ConfigError, WganError

# Hydra also logs the errors that it raises; they are handled here.
logging.getLogger("hydra").addHandler(logging.NullHandler())


def built(
    path: str,
    node: Mapping[str, Any],
    *,
    optional: frozenset[str] | set[str] = frozenset(),
    **facts: Any,
) -> Any:
    """Build the object that the `_target_` of a config node names, from its settings and `facts`.

    The settings in `optional` are passed only if the target's signature has them.
    """
    target, accepts = maker(path, node)
    settings = {key: value for key, value in node.items() if key not in optional or accepts(key)}
    return called(path, settings, target, **facts)


def maker(path: str, node: Mapping[str, Any]) -> tuple[Callable[..., Any], Callable[[str], bool]]:
    """The class or function that `_target_` names, and a test for the keywords that it accepts.

    Raises `ConfigError` where there is none.
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
    """Call `target` with a node's settings but its traits, the arguments and the facts.

    Raises `ConfigError` where the target does not accept them; a `WganError` is passed on.
    """
    settings = {key: value for key, value in settings.items() if key != "traits"}
    keywords = {key: value for key, value in settings.items() if key != "_target_"}
    try:
        inspect.signature(target).bind(*arguments, **keywords, **facts)
    except TypeError as error:
        raise ConfigError(f"{path} ({settings['_target_']}): {error}.") from None
    try:
        partial = instantiate(dict(settings), _partial_=True, _convert_="all")
        return partial(*arguments, **facts)
    except WganError:
        raise
    except (HydraException, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, WganError):
            raise cause from None
        raise ConfigError(f"{path} ({settings['_target_']}): {cause}") from error

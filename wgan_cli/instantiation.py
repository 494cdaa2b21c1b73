"""From a config node with a `_target_` to the object: the only caller of Hydra's `instantiate`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate

from wgan_cli.errors import ConfigError, WganError

# Hydra logs what it raises; the exception is answered here.
logging.getLogger("hydra").addHandler(logging.NullHandler())


def built(
    path: str,
    node: dict[str, Any],
    *,
    optional: frozenset[str] | set[str] = frozenset(),
    **facts: Any,
) -> Any:
    """The object that a config node names, from its settings and `facts`.

    Keys of the node in `optional` are given only to a target whose signature has them.
    """
    make, accepted = maker(path, node)
    settings = {k: v for k, v in node.items() if k not in optional or accepted(k)}
    return called(path, settings, make, **facts)


def maker(path: str, node: dict[str, Any]) -> tuple[Callable[..., Any], Callable[[str], bool]]:
    """What a node's `_target_` names, and which keywords it takes. Raises `ConfigError`."""
    target = node["_target_"]
    try:
        made = get_object(target)
    except Exception as error:
        reason = error.__cause__ or error
        raise ConfigError(f"{path}._target_={target} cannot be imported: {reason}") from error
    if not callable(made):
        raise ConfigError(f"{path}._target_={target} is neither a class nor a function.")
    parameters = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return made, lambda key: open_ended or key in parameters


def called(
    path: str, settings: dict[str, Any], make: Callable[..., Any], *arguments: Any, **facts: Any
) -> Any:
    """`make` on a node's settings, arguments and facts; never on the node's `traits`.

    Raises `ConfigError` where they do not fit or make no sense, and any `WganError` as it is.
    """
    settings = {key: value for key, value in settings.items() if key != "traits"}
    words = {key: value for key, value in settings.items() if key != "_target_"}
    try:
        inspect.signature(make).bind(*arguments, **words, **facts)
    except TypeError as error:
        raise ConfigError(f"{path} ({settings['_target_']}): {error}.") from None
    try:
        partial = instantiate(settings, _partial_=True, _convert_="all")
        return partial(*arguments, **facts)
    except WganError:
        raise
    except (HydraException, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, WganError):
            raise cause from None
        raise ConfigError(f"{path} ({settings['_target_']}): {cause}") from error

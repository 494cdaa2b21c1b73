"""Check the classes that a saved config names, before anything imports or builds them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from wgan_cli.errors import CheckpointError
from wgan_cli.schema import SCHEMAS

# Hydra also logs the errors that it raises. Silence its log, because the commands print them.
logging.getLogger("hydra").addHandler(logging.NullHandler())

# Packages whose networks and optimizers a saved config may name.
_PACKAGES = ("wgan_cli", "torch.nn", "torch.optim")


def check_trusted(config: dict[str, Any], trusted: Sequence[str]) -> None:
    """Raise `CheckpointError` if a saved config names a class that is not trusted.

    Three kinds of names are trusted: the targets of the shipped configs; networks and optimizers
    that are defined in wgan_cli, torch.nn or torch.optim; and all names under a prefix in
    `trusted`.
    """
    for target in targets(config):
        if not isinstance(target, str):
            raise CheckpointError(f"The run's config has {target!r} where a class's name goes.")
        if target in SCHEMAS or any(_under(target, prefix) for prefix in trusted):
            continue
        if not _is_defined_in_packages(target):
            raise CheckpointError(
                f"The run's config names {target}, which is not part of wgan-train. If you trust"
                f" that code, add --trust {target.rpartition('.')[0] or target}."
            )


def _under(target: str, prefix: str) -> bool:
    return target == prefix or target.startswith(prefix + ".")


def _is_defined_in_packages(target: str) -> bool:
    if not any(_under(target, package) for package in _PACKAGES):
        return False
    # Import torch only here: it takes seconds, and other targets do not need it.
    import torch
    from hydra.utils import get_object

    try:
        component = get_object(target)
    except Exception:
        return False
    return (
        inspect.isclass(component)
        and issubclass(component, torch.nn.Module | torch.optim.Optimizer)
        and any(_under(component.__module__, package) for package in _PACKAGES)
    )


def targets(node: Any) -> Iterator[Any]:
    """Yield the value of every `_target_` in a config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from targets(value)

"""Which classes a folder's config may name."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from hydra.utils import get_object
from torch import nn

from wgan_cli.errors import CheckpointError
from wgan_cli.schema import SCHEMAS

# Hydra logs what it raises; the exception is answered here.
logging.getLogger("hydra").addHandler(logging.NullHandler())

# Targets under these names may come from a folder, if they are networks or optimizers at home
# there.
_HOMES = ("wgan_cli", "torch.nn", "torch.optim")


def check_trusted(config: dict[str, Any], trusted: Sequence[str]) -> None:
    """Refuse targets that a folder's config may not name. Raises `CheckpointError`.

    Allowed are what the shipped configs name, networks and optimizers at home in wgan_cli, torch.nn
    or torch.optim, and whatever lies under a prefix the user trusts.
    """
    for target in _targets(config):
        if not isinstance(target, str):
            raise CheckpointError(f"The run's config has {target!r} where a class's name goes.")
        if target in SCHEMAS or any(_under(target, prefix) for prefix in trusted):
            continue
        if not _at_home(target):
            raise CheckpointError(
                f"The run's config names {target}, which is not part of wgan-train. If you trust"
                f" that code, add --trust {target.rpartition('.')[0] or target}."
            )


def _under(target: str, prefix: str) -> bool:
    return target == prefix or target.startswith(prefix + ".")


def _at_home(target: str) -> bool:
    if not any(_under(target, home) for home in _HOMES):
        return False
    try:
        found = get_object(target)
    except Exception:
        return False
    return (
        inspect.isclass(found)
        and issubclass(found, nn.Module | torch.optim.Optimizer)
        and any(_under(found.__module__, home) for home in _HOMES)
    )


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)

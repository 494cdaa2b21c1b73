"""Define the type and range of every setting: a dataclass for each component and for the root.

Default values are only in `configs/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

from wgan_cli.schema.constraints import CONSTRAINTS
from wgan_cli.schema.datasets import DATASETS, Recommended
from wgan_cli.schema.loggers import LOGGERS
from wgan_cli.schema.losses import LOSSES
from wgan_cli.schema.metrics import CURVES, METRICS
from wgan_cli.schema.models import MODELS
from wgan_cli.schema.optimizers import OPTIMIZERS
from wgan_cli.schema.root import FilledConfig, RunConfig, TrainConfig
from wgan_cli.schema.traits import (
    TRAITS,
    Component,
    ConstraintTraits,
    DatasetTraits,
    LossTraits,
    NetworkTraits,
    OptimizerTraits,
)

__all__ = [
    "CURVES",
    "METRICS",
    "SCHEMAS",
    "SCHEMAS_OF",
    "FilledConfig",
    "Recommended",
    "RunConfig",
    "TrainConfig",
    "traits",
]

_COMPONENTS: dict[str, dict[str, Component]] = {
    "dataset": DATASETS,
    "network": MODELS,
    "loss": LOSSES,
    "constraint": CONSTRAINTS,
    "optimizer": OPTIMIZERS,
    "logger": LOGGERS,
}
# The settings classes of this package's components, by group and target. A user's own component has
# no such class; its settings are checked against the signature of its constructor.
SCHEMAS_OF: dict[str, dict[str, type]] = {
    "model" if group == "network" else group: {
        target: component.settings for target, component in components.items()
    }
    for group, components in _COMPONENTS.items()
}
SCHEMAS = {target: schema for group in SCHEMAS_OF.values() for target, schema in group.items()}


@overload
def traits(group: Literal["dataset"], node: Mapping[str, Any]) -> DatasetTraits: ...
@overload
def traits(group: Literal["network"], node: Mapping[str, Any]) -> NetworkTraits: ...
@overload
def traits(group: Literal["loss"], node: Mapping[str, Any]) -> LossTraits: ...
@overload
def traits(group: Literal["constraint"], node: Mapping[str, Any]) -> ConstraintTraits: ...
@overload
def traits(group: Literal["optimizer"], node: Mapping[str, Any]) -> OptimizerTraits: ...
def traits(group: str, node: Mapping[str, Any]) -> Any:
    """Return the traits of the component that a checked config node names.

    For a user's own component, the traits are read from the node's key `traits`; a missing trait
    has its default. For the group "network", `node` is the node of a model's generator or critic.
    """
    component = _COMPONENTS[group].get(node["_target_"])
    if component is None:
        return TRAITS[group](**(node.get("traits") or {}))
    return component.traits_of(node, group)

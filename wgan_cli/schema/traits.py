"""What the rest of the program needs to know of a component: one frozen dataclass for each group.

A component of this package states its traits beside its settings, in its group's file of
`schema/`. Your own component states them under the key `traits` of its YAML. A trait that is not
stated has its default, which is right for any component, if not the fastest choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wgan_cli.schema.settings import setting

# What the data may have. Samples are always there.
KINDS = ("samples", "images", "labels", "modes")


@dataclass(frozen=True)
class OptimizerTraits:
    """Traits of an optimizer."""

    # Each weight's step depends on this weight, its gradient and its state alone. All weights of a
    # network may then lie in one vector, which the optimizer sees as one parameter: one kernel
    # instead of one a layer. False for Adafactor, LARS, LAMB, Muon, whose steps depend on a layer's
    # shape or norm.
    elementwise: bool = False
    # Its step from finite weights and gradients gives finite weights, for all allowed settings.
    # The NaN guard then looks at gradients and not at every weight.
    keeps_finite: bool = False
    # Its constructor takes `fused=True` on every device.
    fused: bool = False
    # `weight_decay` multiplies the weights by 1 - lr * weight_decay, which must stay above 0.
    decay_is_a_factor: bool = False
    # The rate for `optimizer.lr: null` where the data set recommends none, and whose rate it is.
    default_lr: float | None = None
    default_lr_source: str = "the optimizer's default"


@dataclass(frozen=True)
class ConstraintTraits:
    """Traits of a constraint."""

    # Its bound is the root setting `clip`, a parameter of its constructor.
    takes_clip: bool = False
    # It changes weights in their own memory, so that they may be views of one vector. False for
    # one that replaces parameters after `wrap`.
    weights_in_place: bool = False
    # It constrains the score of each sample by itself, so the critic may not have BatchNorm.
    needs_independent_samples: bool = False
    # It differentiates gradients, which torch.compile cannot. State false for a constraint that
    # does not, or `compile=true` is refused.
    differentiates_twice: bool = True
    # It changes or pulls at the weights, so it does not go with a critic that is Lipschitz by
    # construction.
    acts_on_weights: bool = False
    # Its bound on the weights bounds the critic only without normalisation layers.
    undone_by_normalization: bool = False
    # A setting makes it leave normalisation layers out, which has no effect without such layers.
    exempts_normalization: bool = False
    # It acts on linear and convolution layers alone, and needs one.
    needs_linear_layers: bool = False


@dataclass(frozen=True)
class NetworkTraits:
    """Traits of a generator or a critic."""

    # Its parameters stay where they are in memory, so that they may be views of one vector.
    weights_in_place: bool = False
    # It computes well in bfloat16: `precision=auto` may choose bf16, and instead of autocast it may
    # run as a copy with bfloat16 weights, where its layers allow one.
    bf16_copy: bool = False
    # Its feature maps may be channels_last in memory: it views no map in a way that needs another
    # layout.
    channels_last: bool = False
    # It raises `ConfigError` itself for a shape that it cannot serve. Any other network is tried on
    # two samples before a run begins.
    checks_shapes: bool = False
    # It takes `classes` and labels. None: the constructor's signature tells when it is built.
    classes: bool | None = None
    # It is for images alone; None for data of any kind. False: for points of the plane alone.
    images: bool | None = None
    # The sides of square images that it takes: all multiples of `side_multiple`, or those listed.
    side_multiple: int = 1
    sides: list[int] = field(default_factory=list)
    # The one latent_dim that it takes; None: any.
    latent_dim: int | None = None
    # The data set that it is made for, to be named where another is refused.
    dataset: str | None = None
    # Its normalisation: none, batch, layer or group. None: the layers tell when it is built.
    normalization: str | None = None
    # As a critic it is Lipschitz by construction. A built one says so by `lipschitz_constant`.
    lipschitz: bool = False


@dataclass(frozen=True)
class LossTraits:
    """Traits of a loss."""

    # The generator's term depends on the scores of real samples, as in a relativistic loss. For
    # other losses they are not computed, and `real_scores` is None.
    needs_real_scores: bool = False


@dataclass(frozen=True)
class MetricTraits:
    """Traits of a metric, whose tag is its name."""

    # What the data must have: samples, images, labels or modes.
    needs: str = setting(default="samples", choices=KINDS)
    # Real samples against other real samples have a value too, the best that generated ones reach.
    has_floor: bool = False
    # None: unknown. Reports then list runs by it without ranking them.
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class DatasetTraits:
    """Traits of a data set; None where only its files tell."""

    # What its samples have, for the metrics that need it.
    kinds: list[str] | None = setting(default=None, choices=KINDS)
    # Samples of the training part and of the held-out part.
    training_size: int | None = setting(default=None, at_least=1)
    held_out_size: int | None = setting(default=None, at_least=1)
    # The side of its square images in pixels, 0 for points of the plane.
    side: int | None = setting(default=None, at_least=0)


# The traits of a config node, by group; of a model's generator and critic, "network".
TRAITS: dict[str, Any] = {
    "dataset": DatasetTraits,
    "network": NetworkTraits,
    "loss": LossTraits,
    "constraint": ConstraintTraits,
    "optimizer": OptimizerTraits,
}


@dataclass(frozen=True)
class Component:
    """A component of this package: the dataclass of its settings, and its traits.

    `traits` None are the defaults of its group. `from_settings` names the setting that gives a
    trait, as {"normalization": "norm"}; `by_name` has the traits of options that share a target.
    """

    settings: type
    traits: Any = None
    from_settings: dict[str, str] = field(default_factory=dict)
    by_name: dict[str, Any] = field(default_factory=dict)

    def traits_of(self, node: Mapping[str, Any], group: str) -> Any:
        """Its traits under the settings of a config node."""
        traits = self.by_name.get(node.get("name", ""), self.traits) or TRAITS[group]()
        given = {trait: node[key] for trait, key in self.from_settings.items() if key in node}
        return dataclasses.replace(traits, **given)

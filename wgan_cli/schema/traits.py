"""Traits: facts about a component that other modules need; one frozen dataclass for each group.

The traits of this package's components are in `schema/`, in the same file as their settings. Your
own component declares its traits under the key `traits` of its YAML. The default of a trait works
for any component, but may be slower.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wgan_cli.schema.settings import setting

# Kinds of data that a data set may have; every data set has samples.
KINDS = ("samples", "images", "labels", "modes")


@dataclass(frozen=True)
class OptimizerTraits:
    """Traits of an optimizer."""

    # Each weight's update depends only on this weight, its gradient and its optimizer state. All
    # weights of a network may then be one flat parameter, and a step needs one kernel instead of
    # one for each layer. False for Adafactor, LARS, LAMB and Muon, whose updates depend on a
    # layer's shape or norm.
    elementwise: bool = False
    # For all allowed settings, finite weights and gradients give finite weights after a step. The
    # NaN guard then checks only gradients, not weights.
    keeps_finite: bool = False
    # The constructor accepts `fused=True` on every device.
    fused: bool = False
    # `weight_decay` multiplies the weights by 1 - lr * weight_decay, which must be above 0.
    decay_is_a_factor: bool = False
    # The learning rate if `optimizer.lr` is null and the data set recommends none, and its source.
    default_lr: float | None = None
    default_lr_source: str = "the optimizer's default"


@dataclass(frozen=True)
class ConstraintTraits:
    """Traits of a constraint."""

    # The root setting `clip` is its bound. The constructor takes it as a parameter.
    takes_clip: bool = False
    # It changes weights only in place, so the weights may be views of one vector. False for a
    # constraint that replaces parameters after `wrap`.
    weights_in_place: bool = False
    # It constrains each sample's score separately, so the critic must not have BatchNorm.
    needs_independent_samples: bool = False
    # It needs second derivatives, which torch.compile does not support, so `compile=true` is
    # refused. Set this to false if your own constraint needs none.
    differentiates_twice: bool = True
    # It takes second derivatives by `torch.autograd.grad` and `backward` only. On CUDA, the layers
    # of the critic then have faster second derivatives, and no third ones.
    takes_plain_second_derivatives: bool = False
    # It changes or penalizes weights, so the critic must not already be Lipschitz by construction.
    acts_on_weights: bool = False
    # It bounds the weights; this bounds the critic only if the critic has no normalisation layers.
    undone_by_normalization: bool = False
    # It has a setting to skip normalisation layers, which has no effect without such layers.
    exempts_normalization: bool = False
    # It acts only on linear and convolution layers, and needs at least one.
    needs_linear_layers: bool = False


@dataclass(frozen=True)
class NetworkTraits:
    """Traits of a generator or a critic."""

    # Its parameters are never moved in memory, so the parameters may be views of one vector.
    weights_in_place: bool = False
    # It works well in bfloat16, so `precision=auto` may choose bf16. If the network's layers allow
    # it, a copy with bfloat16 weights may replace autocast.
    bf16_copy: bool = False
    # Its feature maps may be channels_last in memory: no `view` of a map needs another layout.
    channels_last: bool = False
    # It raises `ConfigError` for shapes that it does not support. If false, the network is tested
    # on two samples before a run starts.
    checks_shapes: bool = False
    # It takes `classes` and labels. None: find out from the constructor's signature.
    classes: bool | None = None
    # True: only for images. False: only for points in the plane. None: for any data.
    images: bool | None = None
    # The supported sides of square images: multiples of `side_multiple`, or the listed `sides`.
    side_multiple: int = 1
    sides: list[int] = field(default_factory=list)
    # The only latent_dim that it supports; None: any.
    latent_dim: int | None = None
    # The data set for which the network is made. Error messages suggest it if another is refused.
    dataset: str | None = None
    # Its normalisation: none, batch, layer or group. None: find out from its layers.
    normalization: str | None = None
    # As a critic, it is Lipschitz by construction and has the attribute `lipschitz_constant`.
    lipschitz: bool = False


@dataclass(frozen=True)
class LossTraits:
    """Traits of a loss."""

    # The generator's loss depends on the scores of real samples, as in a relativistic loss. If
    # false, these scores are not computed, and `real_scores` is None.
    needs_real_scores: bool = False


@dataclass(frozen=True)
class MetricTraits:
    """Traits of a metric; its name is its tag."""

    # The kind of data that it needs: samples, images, labels or modes.
    needs: str = setting(default="samples", choices=KINDS)
    # It is fast enough to be measured during training if the user chooses no metrics.
    while_training: bool = True
    # It can also compare real samples with other real samples. The result is the best value that
    # generated samples can have.
    has_floor: bool = False
    # None: unknown. Reports then list the runs without ranking them by this metric.
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class DatasetTraits:
    """Traits of a data set. None means that a trait is unknown before the files are read."""

    # The kinds of data that it has, for metrics that need them.
    kinds: list[str] | None = setting(default=None, choices=KINDS)
    # Number of samples in the training part and in the held-out part.
    training_size: int | None = setting(default=None, at_least=1)
    held_out_size: int | None = setting(default=None, at_least=1)
    # The side of its square images in pixels, 0 for points in the plane.
    side: int | None = setting(default=None, at_least=0)


# The traits class of each group; "network" is for a model's generator and critic.
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

    If `traits` is None, the group's defaults apply. `from_settings` maps a trait to the setting
    that gives its value, such as {"normalization": "norm"}. `by_name` maps option names to traits,
    for options that share a target.
    """

    settings: type
    traits: Any = None
    from_settings: dict[str, str] = field(default_factory=dict)
    by_name: dict[str, Any] = field(default_factory=dict)

    def traits_of(self, node: Mapping[str, Any], group: str) -> Any:
        """Return the component's traits for the settings in a config node."""
        traits = self.by_name.get(node.get("name", ""), self.traits) or TRAITS[group]()
        given = {trait: node[key] for trait, key in self.from_settings.items() if key in node}
        return dataclasses.replace(traits, **given)

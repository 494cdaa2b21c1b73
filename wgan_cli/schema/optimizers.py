"""The settings and traits of each optimizer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.settings import setting
from wgan_cli.schema.traits import Component, OptimizerTraits

# With a larger learning rate, a finite gradient can move weights out of float32's range. With a
# smaller eps, float32 rounds eps to 0, and a gradient of 0 gives 0 / 0.
MOST_LR = 1_000_000
LEAST_EPS = 1e-30


@dataclass
class RMSpropSettings:
    """Settings of RMSprop."""

    lr: float | None = setting(above=0, at_most=MOST_LR)
    alpha: float | None = setting(at_least=0, below=1)
    eps: float | None = setting(at_least=LEAST_EPS, at_most=1_000_000)
    momentum: float | None = setting(at_least=0, below=1)
    weight_decay: float | None = setting(at_least=0, at_most=1_000_000)


@dataclass
class AdamSettings:
    """Settings of Adam."""

    lr: float | None = setting(above=0, at_most=MOST_LR)
    betas: list[float] | None = setting(at_least=0, below=1)
    eps: float | None = setting(at_least=LEAST_EPS, at_most=1_000_000)
    weight_decay: float | None = setting(at_least=0, at_most=1_000_000)


@dataclass
class SGDSettings:
    """Settings of stochastic gradient descent."""

    lr: float | None = setting(above=0, at_most=MOST_LR)
    momentum: float | None = setting(at_least=0, below=1)
    weight_decay: float | None = setting(at_least=0, at_most=1_000_000)


def for_both_networks(settings: type) -> type:
    """Return a subclass of `settings` with the extra fields `critic` and `generator`.

    Each of the two fields holds settings for one network only. A setting that is null there takes
    the value set for both networks.
    """
    return dataclasses.make_dataclass(
        settings.__name__.replace("Settings", "Config"),
        [
            ("_target_", "str", MISSING),
            ("name", "str", MISSING),
            ("critic", settings, dataclasses.field(default_factory=settings)),
            ("generator", settings, dataclasses.field(default_factory=settings)),
        ],
        bases=(settings,),
    )


OPTIMIZERS: dict[str, Component] = {
    "wgan_cli.optimizers.RMSprop": Component(
        for_both_networks(RMSpropSettings),
        OptimizerTraits(
            elementwise=True,
            keeps_finite=True,
            # arXiv 1701.07875, Algorithm 1.
            default_lr=5e-5,
            default_lr_source="the paper's",
        ),
    ),
    "torch.optim.Adam": Component(
        for_both_networks(AdamSettings),
        # The learning rate of arXiv 1704.00028, Algorithm 1.
        OptimizerTraits(elementwise=True, keeps_finite=True, fused=True, default_lr=1e-4),
    ),
    "torch.optim.SGD": Component(
        for_both_networks(SGDSettings),
        OptimizerTraits(
            elementwise=True, keeps_finite=True, fused=True, decay_is_a_factor=True, default_lr=1e-2
        ),
    ),
}

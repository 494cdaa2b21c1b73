"""Optimizers: their settings by target."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.settings import setting

# Above this rate finite gradients take weights beyond float32, and below this eps a gradient of 0
# is divided by 0 there.
MOST_LR = 1_000_000
LEAST_EPS = 1e-30


@dataclass
class RMSpropSettings:
    """One network's RMSprop; null inherits."""

    lr: float | None = setting(above=0, at_most=MOST_LR)
    alpha: float | None = setting(at_least=0, below=1)
    eps: float | None = setting(at_least=LEAST_EPS, at_most=1_000_000)
    momentum: float | None = setting(at_least=0, below=1)
    weight_decay: float | None = setting(at_least=0, at_most=1_000_000)


@dataclass
class RMSpropConfig(RMSpropSettings):
    """RMSprop for both networks, each overridable for either."""

    _target_: str = MISSING
    name: str = MISSING
    critic: RMSpropSettings = dataclasses.field(default_factory=RMSpropSettings)
    generator: RMSpropSettings = dataclasses.field(default_factory=RMSpropSettings)


@dataclass
class AdamSettings:
    """One network's Adam; null inherits."""

    lr: float | None = setting(above=0, at_most=MOST_LR)
    betas: list[float] | None = setting(at_least=0, below=1)
    eps: float | None = setting(at_least=LEAST_EPS, at_most=1_000_000)
    weight_decay: float | None = setting(at_least=0, at_most=1_000_000)


@dataclass
class AdamConfig(AdamSettings):
    """Adam for both networks, each overridable for either."""

    _target_: str = MISSING
    name: str = MISSING
    critic: AdamSettings = dataclasses.field(default_factory=AdamSettings)
    generator: AdamSettings = dataclasses.field(default_factory=AdamSettings)


@dataclass
class SGDSettings:
    """One network's stochastic gradient descent; null inherits."""

    lr: float | None = setting(above=0, at_most=MOST_LR)
    momentum: float | None = setting(at_least=0, below=1)
    weight_decay: float | None = setting(at_least=0, at_most=1_000_000)


@dataclass
class SGDConfig(SGDSettings):
    """Stochastic gradient descent for both networks, each overridable for either."""

    _target_: str = MISSING
    name: str = MISSING
    critic: SGDSettings = dataclasses.field(default_factory=SGDSettings)
    generator: SGDSettings = dataclasses.field(default_factory=SGDSettings)


SGD = "torch.optim.SGD"

OPTIMIZERS: dict[str, type] = {
    "wgan_cli.optimizers.RMSprop": RMSpropConfig,
    "torch.optim.Adam": AdamConfig,
    SGD: SGDConfig,
}

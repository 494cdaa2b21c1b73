"""Networks: their settings by target, and what the rules must know of them."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.settings import setting

NORMS = ("none", "batch", "layer", "group")


@dataclass
class PerceptronConfig:
    """A multilayer perceptron."""

    _target_: str = MISSING
    width: int = setting(at_least=1, at_most=65_536)
    depth: int = setting(at_least=1, at_most=100)


@dataclass
class LipschitzConfig:
    """A perceptron that is 1-Lipschitz by construction; MaxMin sorts its units in pairs."""

    _target_: str = MISSING
    width: int = setting(at_least=2, at_most=65_536, multiple_of=2)
    depth: int = setting(at_least=1, at_most=100)


@dataclass
class DcganConfig:
    """A convolutional network after DCGAN."""

    _target_: str = MISSING
    width: int = setting(at_least=1, at_most=4_096)
    norm: str = setting(choices=NORMS)


@dataclass
class ResnetConfig:
    """A residual network after the gradient penalty's paper; large images halve the width."""

    _target_: str = MISSING
    width: int = setting(at_least=2, at_most=4_096)
    norm: str = setting(choices=NORMS)


@dataclass
class ParallelLinesConfig:
    """A generator of points on a vertical line."""

    _target_: str = MISSING
    theta: float = setting(at_least=-1_000_000, at_most=1_000_000)


MODELS: dict[str, type] = {
    "wgan_cli.models.mlp.Generator": PerceptronConfig,
    "wgan_cli.models.mlp.Critic": PerceptronConfig,
    "wgan_cli.models.dcgan.Generator": DcganConfig,
    "wgan_cli.models.dcgan.Critic": DcganConfig,
    "wgan_cli.models.resnet.Generator": ResnetConfig,
    "wgan_cli.models.resnet.Critic": ResnetConfig,
    "wgan_cli.models.lipschitz.Critic": LipschitzConfig,
    "wgan_cli.models.parallel_lines.Generator": ParallelLinesConfig,
}

# 1-Lipschitz by construction.
LIPSCHITZ_CRITIC = "wgan_cli.models.lipschitz.Critic"
LINES_GENERATOR = "wgan_cli.models.parallel_lines.Generator"
CLASSLESS = (LIPSCHITZ_CRITIC, LINES_GENERATOR)

# The images of the residual networks.
RESNET_SIDES = (28, 32, 40, 48, 56, 64, 80, 96, 112, 128)

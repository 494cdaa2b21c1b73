"""The settings and traits of each network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omegaconf import MISSING

from wgan_cli.schema.settings import setting
from wgan_cli.schema.traits import Component, NetworkTraits

NORMS = ("none", "batch", "layer", "group")


@dataclass
class PerceptronConfig:
    """Settings of a multilayer perceptron."""

    _target_: str = MISSING
    width: int = setting(at_least=1, at_most=65_536)
    depth: int = setting(at_least=1, at_most=100)


@dataclass
class LipschitzConfig(PerceptronConfig):
    """Settings of a 1-Lipschitz perceptron; `width` is even because MaxMin sorts pairs of units."""

    width: int = setting(at_least=2, at_most=65_536, multiple_of=2)


@dataclass
class DcganConfig:
    """Settings of a convolutional network based on DCGAN."""

    _target_: str = MISSING
    width: int = setting(at_least=1, at_most=4_096)
    norm: str = setting(choices=NORMS)


@dataclass
class ResnetConfig(DcganConfig):
    """Settings of a residual network as in arXiv 1704.00028.

    For images above 32 pixels, the largest feature maps have `width` / 2 channels.
    """

    width: int = setting(at_least=2, at_most=4_096)


@dataclass
class ParallelLinesConfig:
    """Settings of a generator of points on a vertical line."""

    _target_: str = MISSING
    theta: float = setting(at_least=-1_000_000, at_most=1_000_000)


# Traits that this package's networks share.
_OURS = NetworkTraits(
    weights_in_place=True,
    bf16_copy=True,
    channels_last=True,
    checks_shapes=True,
    classes=True,
    normalization="none",
)
_NORM = {"normalization": "norm"}
_DCGAN = Component(DcganConfig, replace(_OURS, images=True, side_multiple=4), _NORM)
_SIDES = [28, 32, 40, 48, 56, 64, 80, 96, 112, 128]
_RESNET = Component(ResnetConfig, replace(_OURS, images=True, sides=_SIDES), _NORM)

MODELS: dict[str, Component] = {
    "wgan_cli.models.mlp.Generator": Component(PerceptronConfig, _OURS),
    "wgan_cli.models.mlp.Critic": Component(PerceptronConfig, _OURS),
    "wgan_cli.models.dcgan.Generator": _DCGAN,
    "wgan_cli.models.dcgan.Critic": _DCGAN,
    "wgan_cli.models.resnet.Generator": _RESNET,
    "wgan_cli.models.resnet.Critic": _RESNET,
    "wgan_cli.models.lipschitz.Critic": Component(
        LipschitzConfig, replace(_OURS, classes=False, lipschitz=True)
    ),
    "wgan_cli.models.parallel_lines.Generator": Component(
        ParallelLinesConfig,
        replace(_OURS, classes=False, images=False, latent_dim=1, dataset="parallel_lines"),
    ),
}

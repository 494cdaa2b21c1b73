"""The settings and traits of each loss."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.settings import NamedConfig
from wgan_cli.schema.traits import Component


@dataclass
class GanLossConfig(NamedConfig):
    """Settings of the original GAN loss, the baseline."""

    saturating: bool = MISSING


LOSSES: dict[str, Component] = {
    "wgan_cli.losses.Wasserstein": Component(NamedConfig),
    "wgan_cli.losses.Hinge": Component(NamedConfig),
    "wgan_cli.losses.Gan": Component(GanLossConfig),
}

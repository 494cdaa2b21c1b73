"""Losses: their settings by target."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.components import NamedConfig


@dataclass
class GanLossConfig(NamedConfig):
    """The GAN baseline."""

    saturating: bool = MISSING


LOSSES: dict[str, type] = {
    "wgan_cli.losses.Wasserstein": NamedConfig,
    "wgan_cli.losses.Hinge": NamedConfig,
    "wgan_cli.losses.Gan": GanLossConfig,
}

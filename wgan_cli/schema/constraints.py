"""Constraints: their settings by target."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.components import NamedConfig


@dataclass
class ClippingConfig(NamedConfig):
    """Weight clipping; its bound is the root setting `clip`."""

    exempt_normalization: bool = MISSING


CONSTRAINTS: dict[str, type] = {
    "wgan_cli.constraints.WeightClipping": ClippingConfig,
    "wgan_cli.constraints.Unconstrained": NamedConfig,
}

CLIPPING = "wgan_cli.constraints.WeightClipping"

"""Constraints: their settings by target."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.components import NamedConfig
from wgan_cli.schema.settings import setting


@dataclass
class ClippingConfig(NamedConfig):
    """Weight clipping; its bound is the root setting `clip`."""

    exempt_normalization: bool = MISSING


@dataclass
class GradientPenaltyConfig(NamedConfig):
    """The gradient penalty."""

    weight: float = setting(above=0, at_most=1_000_000)
    target: float = setting(at_least=0, at_most=1_000_000)
    one_sided: bool = MISSING


@dataclass
class SpectralNormConfig(NamedConfig):
    """Spectral normalisation."""

    iterations: int = setting(at_least=1, at_most=1_000)


@dataclass
class OrthogonalConfig(NamedConfig):
    """Orthogonal regularisation."""

    weight: float = setting(above=0, at_most=1_000_000)


CLIPPING = "wgan_cli.constraints.WeightClipping"
GRADIENT_PENALTY = "wgan_cli.constraints.GradientPenalty"
SPECTRAL_NORM = "wgan_cli.constraints.SpectralNorm"
ORTHOGONAL = "wgan_cli.constraints.OrthogonalRegularization"

CONSTRAINTS: dict[str, type] = {
    "wgan_cli.constraints.Unconstrained": NamedConfig,
    CLIPPING: ClippingConfig,
    GRADIENT_PENALTY: GradientPenaltyConfig,
    SPECTRAL_NORM: SpectralNormConfig,
    ORTHOGONAL: OrthogonalConfig,
}

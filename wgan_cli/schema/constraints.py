"""Constraints: the settings and traits of each."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from wgan_cli.schema.settings import NamedConfig, setting
from wgan_cli.schema.traits import Component, ConstraintTraits


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


CONSTRAINTS: dict[str, Component] = {
    "wgan_cli.constraints.Unconstrained": Component(
        NamedConfig, ConstraintTraits(weights_in_place=True, differentiates_twice=False)
    ),
    "wgan_cli.constraints.WeightClipping": Component(
        ClippingConfig,
        ConstraintTraits(
            takes_clip=True,
            weights_in_place=True,
            acts_on_weights=True,
            differentiates_twice=False,
        ),
        from_settings={"exempts_normalization": "exempt_normalization"},
    ),
    "wgan_cli.constraints.GradientPenalty": Component(
        GradientPenaltyConfig,
        ConstraintTraits(weights_in_place=True, needs_independent_samples=True),
    ),
    "wgan_cli.constraints.SpectralNorm": Component(
        SpectralNormConfig,
        ConstraintTraits(
            weights_in_place=True,
            acts_on_weights=True,
            differentiates_twice=False,
            undone_by_normalization=True,
            needs_linear_layers=True,
        ),
    ),
    "wgan_cli.constraints.OrthogonalRegularization": Component(
        OrthogonalConfig,
        ConstraintTraits(
            weights_in_place=True,
            acts_on_weights=True,
            differentiates_twice=False,
            needs_linear_layers=True,
        ),
    ),
}

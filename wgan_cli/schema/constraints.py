"""The settings and traits of each constraint."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omegaconf import MISSING

from wgan_cli.schema.settings import NamedConfig, setting
from wgan_cli.schema.traits import Component, ConstraintTraits


@dataclass
class ClippingConfig(NamedConfig):
    """Settings of weight clipping; the bound is the root setting `clip`."""

    exempt_normalization: bool = MISSING


@dataclass
class GradientPenaltyConfig(NamedConfig):
    """Settings of the gradient penalty."""

    weight: float = setting(above=0, at_most=1_000_000)
    target: float = setting(at_least=0, at_most=1_000_000)
    one_sided: bool = MISSING


@dataclass
class SpectralNormConfig(NamedConfig):
    """Settings of spectral normalisation."""

    iterations: int = setting(at_least=1, at_most=1_000)


@dataclass
class OrthogonalConfig(NamedConfig):
    """Settings of orthogonal regularisation."""

    weight: float = setting(above=0, at_most=1_000_000)


_UNCONSTRAINED = ConstraintTraits(weights_in_place=True, differentiates_twice=False)
_ON_WEIGHTS = replace(_UNCONSTRAINED, acts_on_weights=True)

CONSTRAINTS: dict[str, Component] = {
    "wgan_cli.constraints.Unconstrained": Component(NamedConfig, _UNCONSTRAINED),
    "wgan_cli.constraints.WeightClipping": Component(
        ClippingConfig,
        replace(_ON_WEIGHTS, takes_clip=True),
        from_settings={"exempts_normalization": "exempt_normalization"},
    ),
    "wgan_cli.constraints.GradientPenalty": Component(
        GradientPenaltyConfig,
        ConstraintTraits(
            weights_in_place=True,
            needs_independent_samples=True,
            takes_plain_second_derivatives=True,
        ),
    ),
    "wgan_cli.constraints.SpectralNorm": Component(
        SpectralNormConfig,
        replace(_ON_WEIGHTS, undone_by_normalization=True, needs_linear_layers=True),
    ),
    "wgan_cli.constraints.OrthogonalRegularization": Component(
        OrthogonalConfig, replace(_ON_WEIGHTS, needs_linear_layers=True)
    ),
}

"""Constraints that keep the critic Lipschitz; `docs/constraints.md` compares them."""

from wgan_cli.constraints.base import Constraint, Unconstrained
from wgan_cli.constraints.clipping import WeightClipping
from wgan_cli.constraints.gradient_penalty import GradientPenalty
from wgan_cli.constraints.orthogonal import OrthogonalRegularization
from wgan_cli.constraints.spectral_norm import SpectralNorm

__all__ = [
    "Constraint",
    "GradientPenalty",
    "OrthogonalRegularization",
    "SpectralNorm",
    "Unconstrained",
    "WeightClipping",
]

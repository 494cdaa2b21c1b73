"""What holds the critic Lipschitz, a file each; `docs/constraints.md` says what each claims."""

from wgan_cli.constraints.base import Constraint, Unconstrained
from wgan_cli.constraints.clipping import WeightClipping
from wgan_cli.constraints.fit import mention_clipped_batch_norm, refuse_unfit
from wgan_cli.constraints.gradient_penalty import GradientPenalty
from wgan_cli.constraints.layers import NORMALIZATION, batch_norm_layers
from wgan_cli.constraints.orthogonal import OrthogonalRegularization
from wgan_cli.constraints.spectral_norm import SpectralNorm

__all__ = [
    "NORMALIZATION",
    "Constraint",
    "GradientPenalty",
    "OrthogonalRegularization",
    "SpectralNorm",
    "Unconstrained",
    "WeightClipping",
    "batch_norm_layers",
    "mention_clipped_batch_norm",
    "refuse_unfit",
]

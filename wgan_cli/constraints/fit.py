"""Which constraint cannot hold which critic, for critics that the config alone does not tell."""

from __future__ import annotations

import logging

from torch import nn

from wgan_cli.constraints.base import Constraint
from wgan_cli.constraints.clipping import WeightClipping
from wgan_cli.constraints.gradient_penalty import GradientPenalty
from wgan_cli.constraints.layers import LINEAR, NORMALIZATION, batch_norm_layers
from wgan_cli.constraints.orthogonal import OrthogonalRegularization
from wgan_cli.constraints.spectral_norm import SpectralNorm
from wgan_cli.errors import ConfigError

log = logging.getLogger(__name__)


def refuse_unfit(constraint: Constraint, critic: nn.Module) -> None:
    """Raise `ConfigError` where the critic has what the constraint cannot hold."""
    of_weights = isinstance(constraint, WeightClipping | SpectralNorm | OrthogonalRegularization)
    if of_weights and getattr(critic, "lipschitz_constant", None) is not None:
        raise ConfigError(
            "The critic is Lipschitz by construction (it has a lipschitz_constant), and a"
            " constraint on its weights would undo that or do nothing: type constraint=none."
        )
    if isinstance(constraint, GradientPenalty) and batch_norm_layers(critic):
        raise ConfigError(
            f"The critic has BatchNorm ({', '.join(batch_norm_layers(critic))}), so the slope that"
            " the gradient penalty holds at one sample depends on the others: use LayerNorm or"
            " GroupNorm in it."
        )
    normalised = [name for name, m in critic.named_modules() if isinstance(m, NORMALIZATION)]
    exempt = isinstance(constraint, WeightClipping) and constraint.exempt_normalization
    if exempt and not normalised:
        raise ConfigError(
            "constraint.exempt_normalization=true has no effect: the critic has no normalisation"
            " layer. Leave it out, or type model.critic.norm=layer under model=dcgan."
        )
    if isinstance(constraint, SpectralNorm) and normalised:
        raise ConfigError(
            f"The critic has normalisation layers ({', '.join(normalised)}), which undo the bound"
            " of spectral normalisation: take them out, or type constraint=gradient_penalty."
        )
    if isinstance(constraint, SpectralNorm | OrthogonalRegularization) and not any(
        isinstance(module, LINEAR) for module in critic.modules()
    ):
        raise ConfigError(
            "The constraint has no effect: the critic has neither linear nor convolution layers."
            " Type constraint=gradient_penalty or constraint=clip."
        )


def mention_clipped_batch_norm(constraint: Constraint, critic: nn.Module) -> None:
    """Log that the critic's BatchNorm is clipped too, where it is."""
    layers = batch_norm_layers(critic)
    if isinstance(constraint, WeightClipping) and layers and not constraint.exempt_normalization:
        log.info(
            "The critic has BatchNorm (%s): its scales are clipped from 1 to %g, as in the paper."
            " constraint.exempt_normalization=true leaves them out.",
            ", ".join(layers),
            constraint.clip,
        )

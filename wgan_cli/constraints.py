"""What holds the critic Lipschitz: three hooks, each doing nothing unless a constraint needs it."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_cli.randomness import Draws

NORMALIZATION = (_BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)


class Constraint:
    """Base of all constraints.

    `wrap` runs once at build, `penalty` in every critic update before the one backward, and
    `after_step` after every optimizer step of the critic.
    """

    def wrap(self, critic: nn.Module) -> nn.Module:
        """Reparametrise the critic, once, before its optimizer is made."""
        return critic

    def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> Tensor | None:
        """A scalar added to the critic's loss, or None. `real`, `fake`: (batch, *sample shape)."""
        return None

    def after_step(self, critic: nn.Module) -> None:
        """Change the critic's weights in place after its optimizer's step."""

    def report(self, critic: nn.Module) -> dict[str, float]:
        """What a log point shows of the constraint, by tag."""
        return {}


class Unconstrained(Constraint):
    """Nothing holds the critic: its estimate grows without bound and is no distance."""


class WeightClipping(Constraint):
    """Every parameter is cut to [-clip, clip] (arXiv 1701.07875, Algorithm 1, line 7).

    The bound on the weights makes f Lipschitz with some unknown K. `exempt_normalization` leaves
    the scales and shifts of normalisation layers alone; the paper clips them too, from 1 to c.
    """

    def __init__(self, clip: float, exempt_normalization: bool = False) -> None:
        if not clip > 0:
            raise ValueError(f"clip must be above 0, not {clip}")
        self.clip = clip
        self.exempt_normalization = exempt_normalization
        self._clipped: tuple[nn.Module, list[Tensor]] | None = None

    def clipped_parameters(self, critic: nn.Module) -> list[Tensor]:
        """The parameters that `after_step` cuts."""
        if self._clipped is None or self._clipped[0] is not critic:
            exempt = {
                id(parameter)
                for module in critic.modules()
                if self.exempt_normalization and isinstance(module, NORMALIZATION)
                for parameter in module.parameters(recurse=False)
            }
            self._clipped = (critic, [p for p in critic.parameters() if id(p) not in exempt])
        return self._clipped[1]

    @torch.no_grad()
    def after_step(self, critic: nn.Module) -> None:
        """Cut the weights, all in two multi-tensor passes."""
        parameters = self.clipped_parameters(critic)
        torch._foreach_clamp_min_(parameters, -self.clip)
        torch._foreach_clamp_max_(parameters, self.clip)

    @torch.no_grad()
    def report(self, critic: nn.Module) -> dict[str, float]:
        """`critic/clip_saturation`: the share of clipped weights with abs(w) >= 0.99 clip."""
        parameters = self.clipped_parameters(critic)
        at_bound = torch.stack([(p.abs() >= 0.99 * self.clip).sum() for p in parameters]).sum()
        return {"critic/clip_saturation": float(at_bound) / sum(p.numel() for p in parameters)}


def batch_norm_layers(critic: nn.Module) -> list[str]:
    """Names of the layers whose output for one sample depends on the rest of its batch."""
    return [name for name, module in critic.named_modules() if isinstance(module, _BatchNorm)]

"""The base class of constraints, and the types of layers that some constraints look for."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from wgan_cli.randomness import Draws

# With BatchNorm, the output for a sample depends on the other samples of its batch.
BATCH_NORM = (_BatchNorm,)
NORMALIZATION = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
LINEAR = (nn.Linear, _ConvNd)


def layer_names(critic: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Return the names of the critic's layers of these kinds."""
    return [name for name, module in critic.named_modules() if isinstance(module, kinds)]


class Constraint:
    """The base class of constraints. Its methods do nothing; subclasses override some of them.

    `wrap` runs once, when the networks are built. `penalty` runs in every critic update, before the
    backward pass. `after_step` runs after every optimizer step of the critic.
    """

    # False for the class that does not constrain the critic.
    constrains = True

    @property
    def has_penalty(self) -> bool:
        """True if the constraint adds a penalty to the critic's loss."""
        return type(self).penalty is not Constraint.penalty

    def wrap(self, critic: nn.Module) -> nn.Module:
        """Reparametrise the critic and return it. Runs once, before the optimizer is created."""
        return critic

    def penalty(
        self,
        critic: nn.Module,
        real: Tensor,
        fake: Tensor,
        draws: Draws,
        labels: Tensor | None = None,
    ) -> Tensor | None:
        """Return a scalar to add to the critic's loss, or None for no penalty.

        `real` and `fake` are (batch, *sample_shape), float32. `labels` (batch,) are the classes of
        both; None for an unconditional critic. All random numbers must come from `draws`.
        """
        return None

    def after_step(self, critic: nn.Module) -> None:
        """Change the critic's weights in place after its optimizer's step."""

    def report(self, critic: nn.Module) -> dict[str, float]:
        """Return scalars about the constraint to log, by tag."""
        return {}

    def bounded_weights(self, critic: nn.Module) -> tuple[float, list[Tensor]] | None:
        """Return the bound on absolute weights, and the bounded weights; None without a bound."""
        return None


class Unconstrained(Constraint):
    """No constraint: the critic's estimate grows without bound and is not a distance."""

    constrains = False

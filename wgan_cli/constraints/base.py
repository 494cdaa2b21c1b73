"""What a constraint is: three hooks, each doing nothing unless a constraint needs it."""

from __future__ import annotations

from torch import Tensor, nn

from wgan_cli.randomness import Draws


class Constraint:
    """Base of all constraints.

    `wrap` runs once at build, `penalty` in every critic update before the one backward, and
    `after_step` after every optimizer step of the critic.
    """

    def wrap(self, critic: nn.Module) -> nn.Module:
        """Reparametrise the critic, once, before its optimizer is made."""
        return critic

    def penalty(
        self,
        critic: nn.Module,
        real: Tensor,
        fake: Tensor,
        draws: Draws,
        labels: Tensor | None = None,
    ) -> Tensor | None:
        """A scalar added to the critic's loss, or None.

        `real`, `fake`: (batch, *sample shape), float32. `labels`: (batch,), the classes of both,
        row by row, for a critic that is called with them; None for one that is not.
        """
        return None

    def after_step(self, critic: nn.Module) -> None:
        """Change the critic's weights in place after its optimizer's step."""

    def report(self, critic: nn.Module) -> dict[str, float]:
        """What a log point shows of the constraint, by tag."""
        return {}


class Unconstrained(Constraint):
    """Nothing holds the critic: its estimate grows without bound and is no distance."""

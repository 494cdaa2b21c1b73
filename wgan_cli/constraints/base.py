"""The base class of constraints. Its hooks do nothing; a constraint overrides those it needs."""

from __future__ import annotations

from torch import Tensor, nn

from wgan_cli.randomness import Draws


class Constraint:
    """Base of all constraints.

    `wrap` runs once at build, `penalty` in every critic update before the one backward, and
    `after_step` after every optimizer step of the critic.
    """

    def wrap(self, critic: nn.Module) -> nn.Module:
        """Reparametrise the critic. Runs once, before its optimizer is made."""
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

        `real`, `fake`: (batch, *sample shape), float32. `labels`: (batch,), the class of row i in
        both, for a critic that is called with labels; None for one that is not. Draw random points
        from `draws` alone.
        """
        return None

    def after_step(self, critic: nn.Module) -> None:
        """Change the critic's weights in place after its optimizer's step."""

    def report(self, critic: nn.Module) -> dict[str, float]:
        """Numbers about the constraint for a log point, by tag."""
        return {}

    def bounded_weights(self, critic: nn.Module) -> tuple[float, list[Tensor]] | None:
        """The largest absolute value that weights may have, and those weights; None: no bound."""
        return None


class Unconstrained(Constraint):
    """No constraint: the critic's estimate grows without bound and is not a distance."""

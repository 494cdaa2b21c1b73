"""GAN losses: pure functions of per-sample scores (batch,).

`critic` returns the real and the fake term separately, because they are logged separately. The
critic minimises their sum. `generator` returns the scalar that the generator minimises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import relu, softplus


class Loss(ABC):
    """The interface of a loss. Scores are critic outputs without a sigmoid, shape (batch,)."""

    @abstractmethod
    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the real and the fake term, two scalars. The critic minimises their sum."""

    def generator(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        """Return the scalar that the generator minimises: -E f(G(z)) by default.

        For relativistic losses, `real_scores` are the critic's scores of a real batch, without
        gradient. For other losses, they are None.
        """
        return -fake_scores.mean()


class Wasserstein(Loss):
    """The WGAN loss -E f(x) + E f(G(z)) (arXiv 1701.07875, equation 2 and Algorithm 1)."""

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return -E f(x) and E f(G(z)). Minus the sum of both estimates K times the W1 distance."""
        return -real_scores.mean(), fake_scores.mean()


class Hinge(Loss):
    """The hinge loss E relu(1 - f(x)) + E relu(1 + f(G(z))) (arXiv 1705.02894, equation 2)."""

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return E relu(1 - f(x)) and E relu(1 + f(G(z)))."""
        return relu(1 - real_scores).mean(), relu(1 + fake_scores).mean()


class Gan(Loss):
    """The original GAN loss (arXiv 1406.2661) on logits, as a baseline.

    By default, the generator minimises the non-saturating loss E softplus(-f(G(z))) of section 3.
    With `saturating`, it minimises the minimax loss -E softplus(f(G(z))), which corresponds to the
    Jensen-Shannon divergence.
    """

    def __init__(self, saturating: bool = False) -> None:
        self.saturating = saturating

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return E softplus(-f(x)) and E softplus(f(G(z))), the cross-entropy on logits."""
        return softplus(-real_scores).mean(), softplus(fake_scores).mean()

    def generator(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        """Return E softplus(-f(G(z))), or -E softplus(f(G(z))) if saturating."""
        if self.saturating:
            return -softplus(fake_scores).mean()
        return softplus(-fake_scores).mean()

"""GAN losses: pure functions of per-sample scores, each of shape (batch,).

`critic` returns the real and the fake term separately, because they are logged separately; the
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
        """The real and the fake term that the critic minimises, two scalars."""

    def generator(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        """The scalar that the generator minimises: -E f(G(z)) unless a loss overrides it.

        Relativistic losses also use the critic's scores of a real batch, which carry no gradient.
        `real_scores` is None for losses that do not need them.
        """
        return -fake_scores.mean()


class Wasserstein(Loss):
    """-E f(x) + E f(G(z)) (arXiv 1701.07875, equation 2 and Algorithm 1)."""

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """`(-E f(x), E f(G(z)))`: minus their sum estimates K times the Wasserstein distance."""
        return -real_scores.mean(), fake_scores.mean()


class Hinge(Loss):
    """Margins at +1 and -1 (arXiv 1705.02894, equation 2): E relu(1-f(x)) + E relu(1+f(G(z)))."""

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """`(E relu(1 - f(x)), E relu(1 + f(G(z))))`."""
        return relu(1 - real_scores).mean(), relu(1 + fake_scores).mean()


class Gan(Loss):
    """The GAN of arXiv 1406.2661 on logits, as a baseline.

    `saturating=False`: the generator minimises E softplus(-f(G(z))), the alternative in section 3.
    `saturating=True`: the minimax loss -E softplus(f(G(z))), the Jensen-Shannon case.
    """

    def __init__(self, saturating: bool = False) -> None:
        self.saturating = saturating

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """`(E softplus(-f(x)), E softplus(f(G(z))))`: cross-entropy on logits."""
        return softplus(-real_scores).mean(), softplus(fake_scores).mean()

    def generator(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        """E softplus(-f(G(z))), or -E softplus(f(G(z))) if saturating."""
        if self.saturating:
            return -softplus(fake_scores).mean()
        return softplus(-fake_scores).mean()

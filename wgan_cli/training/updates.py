"""One critic update and one generator update (arXiv 1701.07875, Algorithm 1).

Each returns its numbers as one small tensor on the device, so that nothing waits for the device
before a log point.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_cli.constraints import Constraint
from wgan_cli.losses import Loss
from wgan_cli.randomness import Draws

# What an update reports, in the order of its tensor.
CRITIC_TERMS = (
    "critic/wasserstein",
    "critic/loss",
    "critic/loss_real",
    "critic/loss_fake",
    "critic/penalty",
    "critic/grad_norm",
)
GENERATOR_TERMS = ("generator/loss", "generator/grad_norm")


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, the network is not changed: no gradients to its weights, no BatchNorm statistics.

    BatchNorm goes on normalising by the batch in train mode.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for parameter in parameters:
        parameter.requires_grad_(False)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.track_running_stats = True


class Updates:
    """The two updates of a WGAN on its networks and optimizers.

    `bf16` runs the networks in bfloat16; losses, penalties and optimizers stay in float32.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        generator_optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        loss: Loss,
        constraint: Constraint,
        *,
        bf16: bool = False,
    ) -> None:
        self.generator = generator
        self.critic = critic
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer
        self.loss = loss
        self.constraint = constraint
        self.bf16 = bf16
        self._device = next(critic.parameters()).device
        # BatchNorm must see real and fake batches apart; otherwise one pass serves both.
        self._one_pass = not any(isinstance(m, _BatchNorm) for m in critic.modules())

    def critic_update(self, real: Tensor, latent: Tensor, draws: Draws) -> Tensor:
        """One critic step on a real batch and as many fakes; returns `CRITIC_TERMS`, shape (6,).

        `draws` serves the penalty's random points. The generator is left untouched.
        """
        with torch.no_grad(), frozen(self.generator), self._precision():
            fake = self.generator(latent)
        fake = fake.float()
        real_scores, fake_scores = self._scores(real, fake)
        loss_real, loss_fake = self.loss.critic(real_scores, fake_scores)
        loss = loss_real + loss_fake
        penalty = self.constraint.penalty(self.critic, real, fake, draws)
        if penalty is not None:
            loss = loss + penalty
        self.critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = _gradient_norm(self.critic)
        self.critic_optimizer.step()
        self.constraint.after_step(self.critic)
        with torch.no_grad():
            estimate = real_scores.mean() - fake_scores.mean()
            zero = torch.zeros_like(estimate)
            terms = (
                estimate,
                loss,
                loss_real,
                loss_fake,
                zero if penalty is None else penalty,
                norm,
            )
            return torch.stack([term.detach().float() for term in terms])

    def generator_update(self, latent: Tensor) -> Tensor:
        """One generator step; returns `GENERATOR_TERMS`, shape (2,). The critic stays untouched."""
        with frozen(self.critic):
            with self._precision():
                scores = self.critic(self.generator(latent))
            loss = self.loss.generator(scores.float())
            self.generator_optimizer.zero_grad(set_to_none=True)
            loss.backward()
        norm = _gradient_norm(self.generator)
        self.generator_optimizer.step()
        return torch.stack([loss.detach(), norm])

    def _scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        with self._precision():
            if self._one_pass:
                real_scores, fake_scores = self.critic(torch.cat([real, fake])).chunk(2)
            else:
                real_scores, fake_scores = self.critic(real), self.critic(fake)
        return real_scores.float(), fake_scores.float()

    def _precision(self) -> AbstractContextManager[object]:
        if self.bf16:
            return torch.autocast(self._device.type, torch.bfloat16)
        return nullcontext()


def _gradient_norm(network: nn.Module) -> Tensor:
    """The Euclidean norm of all the network's gradients together."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)

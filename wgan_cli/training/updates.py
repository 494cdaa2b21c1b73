"""One critic update and one generator update (arXiv 1701.07875, Algorithm 1).

Each returns its numbers as one small tensor on the device, so that nothing waits for the device
before a log point. Where one of them is not finite, no weight moves any more (`gate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wgan_cli.constraints import Constraint
from wgan_cli.evaluation.sampling import given
from wgan_cli.losses import Loss
from wgan_cli.randomness import Draws
from wgan_cli.training.gate import Gate

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


class Frozen:
    """Inside, a network is not changed: no gradients to its weights, no BatchNorm statistics.

    BatchNorm goes on normalising by the batch in train mode. Made once for a network and entered
    in every update, because walking a network's modules costs as much as a small layer.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._norms = [
            m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats
        ]

    def __enter__(self) -> None:
        self._set(trained=False)

    def __exit__(self, *exception: object) -> None:
        self._set(trained=True)

    def _set(self, *, trained: bool) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(trained)
        for norm in self._norms:
            norm.track_running_stats = trained


class Updates:
    """The two updates of a WGAN on its networks and optimizers.

    `bf16` runs the networks in bfloat16; losses, penalties and optimizers stay in float32.
    `grad_clip` holds the longest gradient of the critic and of the generator, if there is one.
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
        grad_clip: tuple[float | None, float | None] = (None, None),
    ) -> None:
        self.generator = generator
        self.critic = critic
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer
        self.loss = loss
        self.constraint = constraint
        self.bf16 = bf16
        self.critic_clip, self.generator_clip = grad_clip
        self._generator_parameters = list(generator.parameters())
        self._critic_parameters = list(critic.parameters())
        self._frozen_generator = Frozen(generator)
        self._frozen_critic = Frozen(critic)
        self._device = next(critic.parameters()).device
        self.gate = Gate(
            self._device, {"critic": len(CRITIC_TERMS), "generator": len(GENERATOR_TERMS)}
        )
        # BatchNorm must see real and fake batches apart; otherwise one pass serves both.
        self._one_pass = not any(isinstance(m, _BatchNorm) for m in critic.modules())

    def critic_update(
        self, real: Tensor, latent: Tensor, draws: Draws, labels: Tensor | None = None
    ) -> Tensor:
        """One critic step on a real batch and as many fakes; returns `CRITIC_TERMS`, shape (6,).

        `draws` serves the penalty's random points. `labels` (batch,) are the real samples' classes
        where the networks are conditional; the fakes are drawn for the same. The generator is left
        untouched.
        """
        with torch.no_grad(), self._frozen_generator, self._precision():
            fake = given(self.generator, labels)(latent)
        fake = fake.float()
        real_scores, fake_scores = self._scores(real, fake, labels)
        loss_real, loss_fake = self.loss.critic(real_scores, fake_scores)
        loss = loss_real + loss_fake
        classes = () if labels is None else (labels,)
        penalty = self.constraint.penalty(self.critic, real, fake, draws, *classes)
        if penalty is not None:
            loss = loss + penalty
        _forget_gradients(self._critic_parameters)
        loss.backward()
        norm = _clip_gradients(self._critic_parameters, self.critic_clip)
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
            numbers = torch.stack([term.detach().float() for term in terms])
        self.gate.step("critic", self.critic_optimizer, numbers)
        self.constraint.after_step(self.critic)
        return numbers

    def generator_update(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """One generator step; returns `GENERATOR_TERMS`, shape (2,). The critic stays untouched.

        `labels` (batch,) are the classes to draw where the networks are conditional.
        """
        with self._frozen_critic:
            with self._precision():
                fake = given(self.generator, labels)(latent)
                scores = given(self.critic, labels)(fake)
            loss = self.loss.generator(scores.float())
            _forget_gradients(self._generator_parameters)
            loss.backward()
        norm = _clip_gradients(self._generator_parameters, self.generator_clip)
        numbers = torch.stack([loss.detach(), norm])
        self.gate.step("generator", self.generator_optimizer, numbers)
        return numbers

    def _scores(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        with self._precision():
            if self._one_pass:
                twice = None if labels is None else torch.cat([labels, labels])
                scores = given(self.critic, twice)(torch.cat([real, fake]))
                real_scores, fake_scores = scores.chunk(2)
            else:
                critic = given(self.critic, labels)
                real_scores, fake_scores = critic(real), critic(fake)
        return real_scores.float(), fake_scores.float()

    def _precision(self) -> AbstractContextManager[object]:
        if self.bf16:
            return torch.autocast(self._device.type, torch.bfloat16)
        return nullcontext()


def _forget_gradients(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _clip_gradients(parameters: Sequence[Tensor], longest: float | None) -> Tensor:
    """The Euclidean norm of all gradients together, before they are cut to `longest`."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if longest is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return norm

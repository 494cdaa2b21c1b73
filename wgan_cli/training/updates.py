"""One critic update and one generator update of Algorithm 1 (arXiv 1701.07875).

Each returns its terms as one small tensor on the device, so that nothing waits for the device
before a log point. Once a term is not finite, no weight changes any more (see `NanGuard`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from wgan_cli.acceleration.cuda_graphs import portable_state
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.constraints import Constraint
from wgan_cli.distributed.process_group import ALONE, SingleProcess
from wgan_cli.losses import Loss
from wgan_cli.randomness import Draws
from wgan_cli.training.nan_guard import NanGuard

# The terms that an update returns, in the order of its tensor.
CRITIC_TERMS = (
    "critic/wasserstein",
    "critic/loss",
    "critic/loss_real",
    "critic/loss_fake",
    "critic/penalty",
    "critic/grad_norm",
)
GENERATOR_TERMS = ("generator/loss", "generator/grad_norm")


class Updates:
    """The two updates of a WGAN on its networks and optimizers.

    A network is a `TrainedNetwork`, whose forward passes may run in bfloat16; losses, penalties
    and steps stay in float32. A plain module is wrapped. The optimizers hold the networks'
    `optimizer_parameters`.

    `grad_clip`: the largest gradient norm of critic and generator; None does not clip.
    `keeps_finite`: by network, whether its optimizer keeps weights finite (see `NanGuard`).
    `generator_needs_real_scores`: score a real batch in the generator's update, for its loss.
    `ranks`: the processes of the run. Each trains on its rows of a batch; gradients and terms are
    means over all ranks.
    """

    def __init__(
        self,
        generator: TrainedNetwork | nn.Module,
        critic: TrainedNetwork | nn.Module,
        generator_optimizer: torch.optim.Optimizer,
        critic_optimizer: torch.optim.Optimizer,
        loss: Loss,
        constraint: Constraint,
        *,
        grad_clip: tuple[float | None, float | None] = (None, None),
        keeps_finite: Mapping[str, bool] | None = None,
        generator_needs_real_scores: bool = False,
        ranks: SingleProcess = ALONE,
    ) -> None:
        self.trained_generator = TrainedNetwork.of(generator)
        self.trained_critic = TrainedNetwork.of(critic)
        self.generator = self.trained_generator.network
        self.critic = self.trained_critic.network
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer
        self.loss = loss
        self.constraint = constraint
        self.critic_clip, self.generator_clip = grad_clip
        self.generator_needs_real_scores = generator_needs_real_scores
        self.ranks = ranks
        self.nan_guard = NanGuard(
            next(self.critic.parameters()).device,
            {"critic": len(CRITIC_TERMS), "generator": len(GENERATOR_TERMS)},
            keeps_finite or {},
        )

    def critic_update(
        self,
        real: Tensor,
        latent: Tensor | None,
        draws: Draws,
        labels: Tensor | None = None,
        fake: Tensor | None = None,
    ) -> Tensor:
        """One critic step on a real batch and as many fakes; returns `CRITIC_TERMS`, shape (6,).

        The fakes are generated from `latent`, or passed as `fake`, a batch of `fakes`. `draws`
        gives the penalty's random numbers. `labels` (batch,) are the classes of the real samples
        and of the fakes if the networks are conditional. The generator stays unchanged.
        """
        generator, critic = self.trained_generator, self.trained_critic
        critic.zero_grad()
        if fake is None:
            assert latent is not None
            with torch.no_grad(), generator.frozen:
                fake = generator(latent, labels)
        real_scores, fake_scores = critic.score_both(real, fake, labels)
        loss_real, loss_fake = self.loss.critic(real_scores, fake_scores)
        loss = loss_real + loss_fake
        classes = () if labels is None else (labels,)
        penalty = self.constraint.penalty(self.critic, real, fake.to(real.dtype), draws, *classes)
        if penalty is not None:
            loss = loss + penalty
        loss.backward()
        critic.gather_gradients()

        with torch.no_grad():
            wasserstein = real_scores.mean() - fake_scores.mean()
            penalty = torch.zeros_like(wasserstein) if penalty is None else penalty.detach()
        terms = [wasserstein, loss.detach(), loss_real.detach(), loss_fake.detach(), penalty]
        terms = self.ranks.average(critic, terms)
        norm = _clip_gradient(critic.optimizer_parameters, self.critic_clip)
        numbers = torch.stack([term.float() for term in (*terms, norm)])
        with self.nan_guard.protect("critic", self.critic_optimizer, numbers) as may_step:
            if may_step:
                self.critic_optimizer.step()
        self.constraint.after_step(self.critic)
        critic.refresh_bf16_copy()
        return numbers

    def generator_update(
        self, latent: Tensor, labels: Tensor | None = None, real: Tensor | None = None
    ) -> Tensor:
        """One generator step; returns `GENERATOR_TERMS`, shape (2,). The critic stays unchanged.

        `labels` (batch,) are the classes to generate if the networks are conditional. `real` is a
        real batch of the same classes, passed if `generator_needs_real_scores`.
        """
        generator, critic = self.trained_generator, self.trained_critic
        generator.zero_grad()
        with critic.frozen:
            fake_scores = critic.score(generator(latent, labels), labels)
            if real is None:
                loss = self.loss.generator(fake_scores)
            else:
                loss = self.loss.generator(fake_scores, critic.score(real, labels))
            loss.backward()
        generator.gather_gradients()

        terms = self.ranks.average(generator, [loss.detach()])
        norm = _clip_gradient(generator.optimizer_parameters, self.generator_clip)
        numbers = torch.stack([*terms, norm])
        with self.nan_guard.protect("generator", self.generator_optimizer, numbers) as may_step:
            if may_step:
                self.generator_optimizer.step()
        generator.refresh_bf16_copy()
        return numbers

    @property
    def joins_fakes(self) -> bool:
        """Whether `fakes` gives what critic updates would generate themselves, up to rounding."""
        # A compiled generator would be compiled again for another batch size.
        return self.trained_generator.rows_independent and not self.trained_generator.compiled

    @torch.no_grad()
    def fakes(self, latents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Generate the fakes of several critic updates in one pass: a batch for each latent."""
        return self.trained_generator(torch.cat(list(latents))).chunk(len(latents))

    def state_dict(self) -> dict[str, Any]:
        """Networks and optimizers for a checkpoint, as torch's state dicts."""
        state: dict[str, Any] = {}
        for name, (trained, optimizer) in self._networks().items():
            state[name] = trained.network.state_dict()
            optimizer_state = portable_state(optimizer.state_dict())
            state[f"{name}_optimizer"] = trained.split_optimizer_state(optimizer_state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load networks and optimizers. Raises what torch's `load_state_dict` raises."""
        for name, (trained, optimizer) in self._networks().items():
            trained.network.load_state_dict(state[name])
            trained.refresh_bf16_copy()
            optimizer.load_state_dict(trained.join_optimizer_state(state[f"{name}_optimizer"]))

    def _networks(self) -> dict[str, tuple[TrainedNetwork, torch.optim.Optimizer]]:
        return {
            "generator": (self.trained_generator, self.generator_optimizer),
            "critic": (self.trained_critic, self.critic_optimizer),
        }


def _clip_gradient(parameters: Sequence[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale the gradient down to `max_norm`, if given; returns its Euclidean norm before that."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if [gradient.dim() for gradient in gradients] == [1]:
        # For one flat gradient this takes an eighth of the time.
        (gradient,) = gradients
        norm = gradient.dot(gradient).sqrt()
    else:
        norm = get_total_norm(gradients)
    if max_norm is not None:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return norm

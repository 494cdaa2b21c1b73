"""One critic update and one generator update of Algorithm 1 (arXiv 1701.07875).

An update returns its terms (losses and gradient norm) as one small tensor on the device, so it does
not wait for the device. After a term that is NaN or infinite, the weights no longer change (see
`NanGuard`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.nn.utils.parametrize import cached

from wgan_cli.acceleration.capturable import counts_on_device, portable_state
from wgan_cli.acceleration.tf32 import tf32_allowed
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.constraints import Constraint
from wgan_cli.distributed.process_group import ALONE, SingleProcess
from wgan_cli.losses import Loss
from wgan_cli.randomness import Draws
from wgan_cli.training.nan_guard import NanGuard

# The names of the terms that each update returns, in the order of the returned tensor.
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
    """The critic update and the generator update of a WGAN.

    The networks are `TrainedNetwork`s; plain modules are wrapped. Their forward passes may run in
    bfloat16, but losses, penalties and optimizer steps use float32. The optimizers must update the
    networks' `optimizer_parameters`.

    `grad_clip`: the largest gradient norm of the critic and of the generator; None for no clipping.
    `keeps_finite`: for each network, True if the optimizer keeps weights finite (see `NanGuard`).
    `generator_needs_real_scores`: True if the generator's loss needs scores of a real batch.
    `ranks`: the processes of the run, over which gradients and terms are averaged.
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
        self.device = next(self.critic.parameters()).device
        self._keep_counts_on_device()
        # Penalties need float32's range. Under bf16 they do not need all of its precision.
        self.penalty_in_tf32 = (
            self.trained_critic.bf16 and constraint.has_penalty and self.device.type == "cuda"
        )
        self.nan_guard = NanGuard(
            self.device,
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
        """Update the critic; return the values of `CRITIC_TERMS`, shape (6,).

        If `fake` is None, the batch of fakes is generated from `latent`. `draws` provides the
        penalty's random numbers. For conditional networks, `labels` (batch,) holds the classes,
        which are the same for the real and the fake samples. The generator does not change.
        """
        generator, critic = self.trained_generator, self.trained_critic
        critic.zero_grad()
        if fake is None:
            assert latent is not None
            with torch.no_grad(), generator.frozen:
                fake = generator(latent, labels)
        with cached():
            # Parametrized weights are computed once for both passes.
            real_scores, fake_scores = critic.score_both(real, fake, labels)
        loss_real, loss_fake = self.loss.critic(real_scores, fake_scores)
        loss = loss_real + loss_fake
        classes = () if labels is None else (labels,)
        with tf32_allowed() if self.penalty_in_tf32 else nullcontext():
            arguments = self.critic, real, fake.to(real.dtype), draws, *classes
            penalty = self.constraint.penalty(*arguments)
            if penalty is not None and penalty.requires_grad and self.penalty_in_tf32:
                # The backward pass must use TF32 too, so it is separate from that of the loss.
                penalty.backward()
                penalty = penalty.detach()
        if penalty is not None:
            loss = loss + penalty
        loss.backward()
        critic.gather_gradients()

        with torch.no_grad():
            wasserstein = real_scores.mean() - fake_scores.mean()
            penalty = torch.zeros_like(wasserstein) if penalty is None else penalty.detach()
        terms = [wasserstein, loss.detach(), loss_real.detach(), loss_fake.detach(), penalty]
        terms = self.ranks.average(critic, terms)
        norm = _clip_gradient(critic, self.critic_clip)
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
        """Update the generator; return the values of `GENERATOR_TERMS`, shape (2,).

        For conditional networks, `labels` (batch,) holds the classes to generate. For losses that
        need real scores, `real` is a real batch of the same classes. The critic does not change.
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
        norm = _clip_gradient(generator, self.generator_clip)
        numbers = torch.stack([*terms, norm])
        with self.nan_guard.protect("generator", self.generator_optimizer, numbers) as may_step:
            if may_step:
                self.generator_optimizer.step()
        generator.refresh_bf16_copy()
        return numbers

    @property
    def joins_fakes(self) -> bool:
        """True if `fakes` gives the same samples, up to rounding, as one pass per critic update."""
        # A compiled generator would be compiled again for a larger batch.
        return self.trained_generator.rows_independent and not self.trained_generator.compiled

    @torch.no_grad()
    def fakes(self, latents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Generate the fakes of several critic updates in one pass; return one batch per update."""
        return self.trained_generator(torch.cat(list(latents))).chunk(len(latents))

    def state_dict(self) -> dict[str, Any]:
        """Return the state dicts of networks and optimizers for a checkpoint."""
        state: dict[str, Any] = {}
        for name, (trained, optimizer) in self.networks().items():
            state[name] = trained.network.state_dict()
            optimizer_state = portable_state(optimizer.state_dict())
            state[f"{name}_optimizer"] = trained.split_optimizer_state(optimizer_state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load networks and optimizers. Raise the same errors as `load_state_dict` of torch."""
        for name, (trained, optimizer) in self.networks().items():
            trained.network.load_state_dict(state[name])
            trained.refresh_bf16_copy()
            optimizer.load_state_dict(trained.join_optimizer_state(state[f"{name}_optimizer"]))
        self._keep_counts_on_device()

    def networks(self) -> dict[str, tuple[TrainedNetwork, torch.optim.Optimizer]]:
        """Return each network with its optimizer, by name."""
        return {
            "generator": (self.trained_generator, self.generator_optimizer),
            "critic": (self.trained_critic, self.critic_optimizer),
        }

    def _keep_counts_on_device(self) -> None:
        if self.device.type == "cuda":
            counts_on_device(self.generator_optimizer)
            counts_on_device(self.critic_optimizer)


def _clip_gradient(trained: TrainedNetwork, max_norm: float | None) -> Tensor:
    """Clip the gradient to the norm `max_norm`, if given. Return the norm before clipping."""
    gradients = trained.gradients
    if [gradient.dim() for gradient in gradients] == [1]:
        # For one flat gradient this is eight times faster than `get_total_norm`.
        (gradient,) = gradients
        norm = gradient.dot(gradient).sqrt()
    else:
        norm = get_total_norm(gradients)
    if max_norm is not None:
        clip_grads_with_norm_(trained.optimizer_parameters, max_norm, norm)
    return norm

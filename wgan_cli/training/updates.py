"""One critic update and one generator update (arXiv 1701.07875, Algorithm 1).

Each returns its numbers as one small tensor on the device, so that nothing waits for the device
before a log point. Where one of them is not finite, no weight moves any more (`gate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from wgan_cli.acceleration.cuda_graphs import (
    Graph,
    GraphedUpdate,
    Update,
    make_capturable,
    portable_state,
)
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.constraints import Constraint
from wgan_cli.distributed.process_group import ALONE, SingleProcess
from wgan_cli.losses import Loss
from wgan_cli.models.precision import to_float32
from wgan_cli.randomness import Draws
from wgan_cli.training.batch_norm_rollback import BatchNormRollback
from wgan_cli.training.nan_guard import NanGuard, moved_by

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

    The networks are `TrainedNetwork`s, whose passes may be bfloat16; losses, penalties and updates
    stay in float32. A plain network is taken as it is. The optimizers are of the weights'
    `optimised`. `grad_clip` holds the longest gradient of the critic and of the generator, if there
    is one. With `graph`, which makes an empty one, updates are recorded and replayed (`graphs`).
    Where several `ranks` train, each gives its share of a batch; gradients and what is reported are
    then those of the whole batch, on every rank.
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
        graph: Callable[[], Graph] | None = None,
        ranks: SingleProcess = ALONE,
    ) -> None:
        self.ranks = ranks
        self.generator_weights = _weights(generator)
        self.critic_weights = _weights(critic)
        self.generator = self.generator_weights.network
        self.critic = self.critic_weights.network
        self.generator_optimizer = generator_optimizer
        self.critic_optimizer = critic_optimizer
        self.loss = loss
        self.constraint = constraint
        self.critic_clip, self.generator_clip = grad_clip
        self._frozen_generator = Frozen(self.generator_weights.passes)
        self._frozen_critic = Frozen(self.critic_weights.passes)
        device = next(self.critic.parameters()).device
        self.gate = NanGuard(
            device, {"critic": len(CRITIC_TERMS), "generator": len(GENERATOR_TERMS)}
        )
        # One pass of a twin, which no user's network has, serves real and fake. In float32 they
        # pass apart even where BatchNorm does not ask for it: terms that cancel between them then
        # cancel as in any other loop, and RMSprop and Adam make whole steps of what remains.
        self._one_pass = _row_by_row(self.critic_weights)
        # What is recorded begins with a pass of its own.
        self._joins_fakes = graph is None and _row_by_row(self.generator_weights)
        # A rank can be lost in any update, and what was done before that one is saved.
        several = ranks.world > 1
        self._whole: AbstractContextManager[None] = (
            BatchNormRollback((self.generator, self.critic)) if several else nullcontext()
        )
        self._critic_step: Update = self._step_critic
        self._generator_step: Update = self._step_generator
        self._graphed: list[GraphedUpdate] = []
        if graph is not None:
            steps: tuple[Update, Update] = (self._step_generator, self._step_critic)
            self._graphed = [
                GraphedUpdate(name, step, partial(self._changing, weights, optimizer), graph)
                for (name, weights, optimizer), step in zip(self._networks(), steps, strict=True)
            ]
            self._generator_step, self._critic_step = self._graphed
            self._prepare_graphs()

    def critic_update(
        self,
        real: Tensor,
        latent: Tensor | None,
        draws: Draws,
        labels: Tensor | None = None,
        fake: Tensor | None = None,
    ) -> Tensor:
        """One critic step on a real batch and as many fakes; returns `CRITIC_TERMS`, shape (6,).

        `draws` serves the penalty's random points. `labels` (batch,) are the real samples' classes
        where the networks are conditional; the fakes are drawn for the same. The generator is left
        untouched. With a batch of `fakes` as `fake` no latent is needed.
        """
        with self._whole:
            if fake is not None:
                return self._learn(real, fake, labels, draws)
            return self._critic_step(real, latent, labels, draws=draws)

    @property
    def joins_fakes(self) -> bool:
        """Whether `fakes` makes what updates would make for themselves, but for rounding."""
        # Every further size of a batch would be compiled amid the training.
        return self._joins_fakes and not self.generator_weights.compiled

    @torch.no_grad()
    def fakes(self, latents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the generator, as it is, makes of several updates' latents: a batch of each."""
        return self.generator_weights(torch.cat(list(latents))).chunk(len(latents))

    def generator_update(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """One generator step; returns `GENERATOR_TERMS`, shape (2,). The critic stays untouched.

        `labels` (batch,) are the classes to draw where the networks are conditional.
        """
        with self._whole:
            return self._generator_step(latent, labels)

    def _step_critic(
        self, real: Tensor, latent: Tensor, labels: Tensor | None, draws: Draws
    ) -> Tensor:
        with torch.no_grad(), self._frozen_generator:
            fake = self.generator_weights(latent, labels)
        return self._learn(real, fake, labels, draws)

    def _learn(self, real: Tensor, fake: Tensor, labels: Tensor | None, draws: Draws) -> Tensor:
        real_scores, fake_scores = self._scores(real, fake, labels)
        loss_real, loss_fake = self.loss.critic(real_scores, fake_scores)
        loss = loss_real + loss_fake
        classes = () if labels is None else (labels,)
        penalty = self.constraint.penalty(self.critic, real, fake.to(real.dtype), draws, *classes)
        if penalty is not None:
            loss = loss + penalty
        with torch.no_grad():
            estimate = real_scores.mean() - fake_scores.mean()
            zero = torch.zeros_like(estimate)
        terms = [estimate, loss, loss_real, loss_fake, zero if penalty is None else penalty]
        terms = self._backward(loss, terms, self.critic_weights, self.critic_clip)
        numbers = torch.stack([term.float() for term in terms])
        self.gate.step("critic", self.critic_optimizer, numbers)
        self.constraint.after_step(self.critic)
        self.critic_weights.round()
        return numbers

    def _step_generator(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        with self._frozen_critic:
            fake = self.generator_weights(latent, labels)
            scores = to_float32(self.critic_weights(fake, labels))
            loss = self.loss.generator(scores)
            terms = self._backward(loss, [loss], self.generator_weights, self.generator_clip)
        numbers = torch.stack(terms)
        self.gate.step("generator", self.generator_optimizer, numbers)
        self.generator_weights.round()
        return numbers

    def state(self) -> dict[str, Any]:
        """Networks and optimizers for a checkpoint, as torch's state dicts."""
        state: dict[str, Any] = {}
        for name, weights, optimizer in self._networks():
            state[name] = weights.network.state_dict()
            state[f"{name}_optimizer"] = weights.split_state(portable_state(optimizer.state_dict()))
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's. What does not fit raises as torch's `load_state_dict`."""
        for name, weights, optimizer in self._networks():
            weights.network.load_state_dict(state[name])
            weights.round()
            optimizer.load_state_dict(weights.join_state(state[f"{name}_optimizer"]))
        self._prepare_graphs()

    def _networks(self) -> tuple[tuple[str, TrainedNetwork, torch.optim.Optimizer], ...]:
        return (
            ("generator", self.generator_weights, self.generator_optimizer),
            ("critic", self.critic_weights, self.critic_optimizer),
        )

    def _prepare_graphs(self) -> None:
        """Let what a graph reads be where it can be read, and forget what moved."""
        for graphed in self._graphed:
            graphed.forget()
        if self._graphed:
            for optimizer in (self.generator_optimizer, self.critic_optimizer):
                make_capturable(optimizer)

    def _changing(self, weights: TrainedNetwork, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        """What an update of these weights changes."""
        return [*weights.tensors(), *self.gate.tensors(), *moved_by(optimizer)]

    def _backward(
        self, loss: Tensor, terms: list[Tensor], weights: TrainedNetwork, longest: float | None
    ) -> list[Tensor]:
        """Leave a loss's gradients for the optimizer; returns the terms and the gradients' norm.

        The norm is Euclidean, of all of them together, before they are cut to `longest`.
        """
        weights.forget_gradients()
        loss.backward()
        weights.gather_gradients()
        terms = [term.detach() for term in terms]
        if self.ranks.world > 1:
            terms = self.ranks.average(weights, terms)
        parameters = weights.optimised
        norm = _length([p.grad for p in parameters if p.grad is not None])
        if longest is not None:
            clip_grads_with_norm_(parameters, longest, norm)
        return [*terms, norm]

    def _scores(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        critic = self.critic_weights
        if not self._one_pass:
            return to_float32(critic(real, labels)), to_float32(critic(fake, labels))
        twice = None if labels is None else torch.cat([labels, labels])
        # In the fakes' layout, which is that of the layers.
        both = torch.cat([torch.empty_like(fake).copy_(real.view_as(fake)), fake])
        real_scores, fake_scores = to_float32(critic(both, twice)).chunk(2)
        return real_scores, fake_scores


def _weights(network: TrainedNetwork | nn.Module) -> TrainedNetwork:
    return network if isinstance(network, TrainedNetwork) else TrainedNetwork(network)


def _row_by_row(weights: TrainedNetwork) -> bool:
    """Whether passes run on a twin in which no sample depends on the others of its batch.

    Of the layers that a twin may have (`twin`) only BatchNorm mixes them.
    """
    batch_norm = any(isinstance(m, _BatchNorm) for m in weights.network.modules())
    return weights.passes is not weights.network and not batch_norm


def _length(gradients: list[Tensor]) -> Tensor:
    """Their Euclidean norm all together: of a single row of numbers in an eighth of the time."""
    if [gradient.dim() for gradient in gradients] == [1]:
        (gradient,) = gradients
        return gradient.dot(gradient).sqrt()
    return get_total_norm(gradients)

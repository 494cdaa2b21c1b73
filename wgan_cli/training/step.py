"""One step of Algorithm 1 (arXiv 1701.07875): n_critic critic updates and a generator update."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wgan_cli.acceleration.grouped import Grouped
from wgan_cli.acceleration.step_graphs import ChangedTensors
from wgan_cli.randomness import Stream
from wgan_cli.training.callbacks.protocol import Phase
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.ema import ExponentialMovingAverage
from wgan_cli.training.nan_guard import tensors_moved_by
from wgan_cli.training.running_means import RunningMeans
from wgan_cli.training.schedule import LearningRates
from wgan_cli.training.step_inputs import StagedInputs, StepInputs
from wgan_cli.training.updates import Updates


@dataclass(eq=False)
class TrainingStep:
    """The updates of a step, on the batches and random numbers of `inputs`.

    A batch has `rows` samples in this process. For conditional networks, `classes` draws the labels
    of generated samples. `phase` names the parts of a step for a profiler.
    """

    updates: Updates
    inputs: StepInputs
    rates: LearningRates
    means: RunningMeans
    ema: ExponentialMovingAverage | None
    rows: int
    latent_dim: int
    classes: ClassSampler | None
    phase: Phase = nullcontext
    # The arguments of the last call of `begin`.
    _position: tuple[int, int] | None = field(default=None, init=False)

    def begin(self, step: int, next_log: int) -> None:
        """Prepare for step `step`, counted from 0.

        `next_log` is the number of finished steps at the next log point.
        """
        self._position = step, next_log
        self._fakes: Grouped[Tensor] | None = None
        self.inputs.begin(step, next_log, self.rates.at)
        count = self.inputs.updates
        if count > 1 and self.classes is None and self.updates.joins_fakes:
            self._fakes = Grouped(self._generate_fakes, count, self.inputs.most_numbers)

    def restart(self) -> None:
        """Forget what was prepared for later steps. Call this after loading a checkpoint."""
        self._position = None
        self.inputs.restart()

    def current_rates(self) -> list[float] | None:
        """Return the learning rates of the last step that was begun; None without one."""
        return None if self._position is None else self.rates.at(self._position[0])

    def start(self) -> None:
        """Set the learning rates. Call this before the first update after `begin`."""
        assert self._position is not None
        on_device = self.inputs.rates if isinstance(self.inputs, StagedInputs) else None
        self.rates.set(self._position[0], on_device)
        # Draw these numbers first: `JointDraws` depends on the order, and a resumed step may have
        # no critic update left.
        with self.phase("noise"):
            noise = self.inputs.generator_draws(Stream.GENERATOR_NOISE)
            self._latent = noise.normal((self.rows, self.latent_dim), self.means.critic.device)
            self._labels: Tensor | None = None
            if self.classes is not None and not self.updates.generator_needs_real_scores:
                draws = self.inputs.generator_draws(Stream.CLASSES)
                self._labels = self.classes.draw(self.rows, draws)

    def run(self) -> None:
        """Do the complete step."""
        self.start()
        for inner in range(self.inputs.updates):
            self.critic_update(inner)
        self.generator_update()
        self.finish()

    def critic_update(self, inner: int) -> None:
        """Do critic update `inner` on new real and fake batches."""
        with self.phase("data"):
            real, labels = self.inputs.real(inner)
        fake = None if self._fakes is None else self._fakes.item(inner, real.numel())
        latent = self._critic_noise(inner) if fake is None else None
        draws = self.inputs.critic_draws(Stream.PENALTY, inner)
        labels = None if self.classes is None else labels
        with self.phase("critic update"):
            terms = self.updates.critic_update(real, latent, draws, labels, fake)
            self.means.add_critic(terms)

    def generator_update(self) -> None:
        """Do the generator update on the noise that `start` has drawn.

        Losses that need real scores also get the real batch of the last critic update.
        """
        labels, real = self._labels, None
        if self.updates.generator_needs_real_scores:
            real, classes = self.inputs.real(self.inputs.updates - 1)
            labels = None if self.classes is None else classes
        with self.phase("generator update"):
            self.means.add_generator(self.updates.generator_update(self._latent, labels, real))

    def finish(self) -> None:
        """Update the moving average, and go on to the data of the next step."""
        if self.ema is not None:
            with self.phase("average"):
                self.ema.update()
        self.inputs.finish()

    def repeat(self) -> None:
        """Prepare to run the same step again, with the same batches and random numbers."""
        assert self._position is not None
        self.begin(*self._position)

    @property
    def generator(self) -> torch.Generator:
        """The generator of the step's random numbers on the device. Only for `StagedInputs`."""
        assert isinstance(self.inputs, StagedInputs)
        return self.inputs.draws.generator

    def changed_tensors(self) -> ChangedTensors:
        """Return the tensors that a step changes. Only for `StagedInputs`."""
        assert isinstance(self.inputs, StagedInputs)
        changed = ChangedTensors([], [self.means.critic, self.means.generator], [])
        changed.states.extend([self.inputs.cursor, *self.updates.nan_guard.tensors()])
        for trained, optimizer in self.updates.networks().values():
            changed.states.extend([*tensors_moved_by(optimizer), *trained.network.buffers()])
            changed.derived.extend(trained.copies)
        if self.ema is not None:
            changed.states.extend([*self.ema.module.parameters(), *self.ema.module.buffers()])
        return changed

    def host_places(self) -> list[dict[str, Any]]:
        """Return the attributes of the parts of an update, and the states of the optimizers."""
        parts: list[object] = [self.updates.loss, self.updates.constraint]
        places: list[dict[str, Any]] = []
        for trained, optimizer in self.updates.networks().values():
            parts += [*trained.network.modules(), *trained.forward_network.modules(), optimizer]
            places += [*optimizer.param_groups, *optimizer.state.values()]
        return [*places, *(getattr(part, "__dict__", {}) for part in parts)]

    def _generate_fakes(self, inners: range) -> Sequence[Tensor]:
        latents = [self._critic_noise(inner) for inner in inners]
        with self.phase("generated samples"):
            return self.updates.fakes(latents)

    def _critic_noise(self, inner: int) -> Tensor:
        with self.phase("noise"):
            draws = self.inputs.critic_draws(Stream.CRITIC_NOISE, inner)
            return draws.normal((self.rows, self.latent_dim), self.means.critic.device)

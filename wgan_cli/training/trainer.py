"""The training loop: critic phase, generator phase, housekeeping."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import NoReturn

from torch import Tensor

from wgan_cli.acceleration.joint_fakes import JointFakes
from wgan_cli.data.feeds import Batch, Feed
from wgan_cli.errors import DivergedError, WganError
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.randomness import Draws, Stream
from wgan_cli.stop_signals import StopNow, StopSignals
from wgan_cli.training.callbacks.protocol import Cadence, Callback, Phase, Point
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.divergence import check_finite
from wgan_cli.training.failures import reported_end
from wgan_cli.training.rollback import Rollback
from wgan_cli.training.run_state import RunState
from wgan_cli.training.running_means import Throughput
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay, LearningRates


@dataclass(eq=False)
class Trainer(RunState):
    """Train a WGAN by Algorithm 1 of arXiv 1701.07875.

    Random numbers and batches depend only on (seed, step, inner), so a resume only has to call
    `load_state_dict`. For conditional networks, `classes` draws the labels of generated samples.
    With several ranks, this process trains on its `shard` of every batch.
    """

    feed: Feed
    _: KW_ONLY
    steps: int
    batch_size: int
    latent_dim: int
    seed: int
    schedule: CriticSchedule
    decay: LearningRateDecay
    cadence: Cadence
    evaluation: Evaluation | None
    classes: ClassSampler | None = None
    callbacks: Sequence[Callback] = ()
    rollback: Rollback | None = None
    signals: StopSignals = field(default_factory=StopSignals)

    def __post_init__(self, ema_decay: float) -> None:
        super().__post_init__(ema_decay)
        updates = self.updates
        self.shard = updates.ranks.shard
        self.phase: Phase = nullcontext
        self.throughput = Throughput(self.batch_size)
        self._rows = self.batch_size // self.shard.world
        self._rates = LearningRates(updates.critic_optimizer, updates.generator_optimizer)
        self._last_batch: Batch | None = None

    def fit(self) -> None:
        """Train until step `steps`. Raise a `WganError` if the run ends earlier."""
        # Call the first callback last: it records how the run ended, even if another callback
        # fails.
        on_end = [partial(callback.on_end, self) for callback in reversed(self.callbacks)]
        with closing(self.feed), reported_end(on_end, self.batch_size):
            self.start()
            self._restart_throughput()
            while self.step < self.steps or self.unmeasured:
                try:
                    self.advance()
                except DivergedError as diverged:
                    self.roll_back(diverged)

    def start(self) -> None:
        """Call `on_start` of all callbacks."""
        point = Point(self.step)
        for callback in self.callbacks:
            callback.on_start(self, point)

    def advance(self) -> None:
        """Train one step, then do its housekeeping.

        If the run was stopped during housekeeping, a resume repeats only the housekeeping.
        """
        if not self.unmeasured:
            self.train_step()
        self.housekeeping()

    def train_step(self) -> None:
        """Do one step of Algorithm 1: n_critic critic updates and one generator update."""
        rollback_factor = self.rollbacks[-1].lr_factor if self.rollbacks else 1.0
        self._rates.set(self.decay.factor(self.step) * rollback_factor)
        self.critic_phase()
        self.generator_phase()
        if self.ema is not None:
            with self.phase("average"):
                self.ema.update()
        self.step += 1
        self.inner = 0

    def critic_phase(self) -> None:
        """Do the step's remaining critic updates, each on new real and fake batches.

        If a stop request has waited too long, save and stop the run between two critic updates.
        """
        before, count = self.schedule.updates_before(self.step), self.schedule.updates(self.step)
        fakes = self._last_batch = None
        if count > 1 and self.classes is None and self.updates.joins_fakes:
            fakes = JointFakes(self._generate_fakes, count)
        while self.inner < count:
            overdue = self.signals.overdue()
            if overdue is not None:
                self.stop(overdue)
            with self.phase("data"):
                real, labels = batch = self.feed.batch(before + self.inner)
            fake = None if fakes is None else fakes.batch(self.inner, real.numel())
            latent = self._noise(Stream.CRITIC_NOISE, self.inner) if fake is None else None
            draws = Draws(self.seed, Stream.PENALTY, self.step, self.inner, self.shard)
            labels = None if self.classes is None else labels
            with self.phase("critic update"):
                terms = self.updates.critic_update(real, latent, draws, labels, fake)
                self.means.add_critic(terms)
            self._last_batch = batch if self.updates.generator_needs_real_scores else None
            self.inner += 1

    def generator_phase(self) -> None:
        """Do one generator update on new noise.

        Losses that need real scores also get the real batch of the last critic update.
        """
        latent = self._noise(Stream.GENERATOR_NOISE)
        labels = real = None
        if self.updates.generator_needs_real_scores:
            last = self.schedule.updates_before(self.step + 1) - 1
            real, labels = self._last_batch or self.feed.batch(last)
        if self.classes is None:
            labels = None
        elif real is None:
            draws = Draws(self.seed, Stream.CLASSES, self.step, shard=self.shard)
            labels = self.classes.draw(self._rows, draws)
        with self.phase("generator update"):
            self.means.add_generator(self.updates.generator_update(latent, labels, real))

    def housekeeping(self) -> None:
        """Log, evaluate, draw pictures and save if due. Stop if a signal requested a stop."""
        point = self.cadence.point(self.step, self.steps)
        self.unmeasured = True
        if point.anything:
            self.measure(point)
        elif self.device.type == "cpu" and self.updates.nan_guard.tripped():
            self.check_finite({})
        self.unmeasured = False
        for callback in self.callbacks:
            with self.phase(callback.phase) if point.anything else nullcontext():
                callback.on_step(self, point)
        self.stop_if_requested()

    def stop_if_requested(self) -> None:
        """Stop the run if a signal requested a stop, except after the last step."""
        request = self.signals.requested()
        if request is not None and self.step < self.steps:
            self.stop(request)

    def measure(self, point: Point) -> None:
        """Add the due measurements to `point`. Raise `DivergedError` if a number is not finite."""
        regular = self.step % self.cadence.log == 0
        with self.phase("log"):
            means = self.means.means()
            self.check_finite(means)
            if point.log:
                if not self.updates.constraint.has_penalty:
                    del means["critic/penalty"]
                point.scalars.update(means)
                point.scalars.update(self.updates.constraint.report(self.critic))
                # A user's generator may define `report`.
                point.scalars.update(getattr(self.generator, "report", dict)())
                done = self.schedule.updates_before(self.step)
                point.scalars.update(self.throughput.report(self.step, done, restart=regular))
        if point.evaluate and self.evaluation is not None:
            self.evaluate(point, self.evaluation)
        if point.log and regular:
            self.means.reset()

    def evaluate(self, point: Point, evaluation: Evaluation) -> None:
        """Evaluate the samples and add the results to `point`. This can take minutes.

        A stop signal ends the evaluation at once. The resumed run then measures this step.
        """
        try:
            with self.phase("evaluation"), self.signals.at_once():
                result = evaluation(self.generator, self.critic, self.raw_generator)
        except StopNow as stop:
            self.stop(stop.error)
        point.evaluation = result
        point.scalars.update(result.scalars())
        point.pictures.update(result.pictures)

    def check_finite(self, means: dict[str, float]) -> None:
        """Raise `DivergedError` if a term, a weight or a value of `means` is not finite."""
        check_finite(self.updates, means, guard_reset_at=self.guard_reset_at, step=self.step)

    def stop(self, error: WganError) -> NoReturn:
        """Let the callbacks save the run, then raise `error`.

        If the run has diverged, it is not saved, and `DivergedError` is raised instead.
        """
        self.check_finite(self.means.means())
        for callback in self.callbacks:
            callback.on_stop(self)
        raise error

    def roll_back(self, error: DivergedError) -> None:
        """Load a checkpoint and lower the learning rates. Raise an error if this is impossible."""
        if self.rollback is None:
            raise error
        self.load_state_dict(self.rollback.state_to_load(error, self.step, self.rollbacks))
        self._restart_throughput()
        for callback in self.callbacks:
            callback.on_rollback(self)

    def _restart_throughput(self) -> None:
        self.throughput.restart(self.step, self.schedule.updates_before(self.step))

    def _generate_fakes(self, inners: range) -> Sequence[Tensor]:
        latents = [self._noise(Stream.CRITIC_NOISE, inner) for inner in inners]
        with self.phase("generated samples"):
            return self.updates.fakes(latents)

    def _noise(self, stream: Stream, inner: int = 0) -> Tensor:
        with self.phase("noise"):
            draws = Draws(self.seed, stream, self.step, inner, self.shard)
            return draws.normal((self._rows, self.latent_dim), self.device)

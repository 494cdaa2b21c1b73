"""The training loop: critic phase, generator phase, housekeeping."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

from torch import Tensor, nn

from wgan_cli.acceleration.joint_fakes import JointFakes
from wgan_cli.constraints import Constraint
from wgan_cli.data.feeds import Feed
from wgan_cli.errors import CheckpointError, DivergedError, WganError
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.randomness import Draws, Stream
from wgan_cli.stop_signals import StopNow, StopSignals
from wgan_cli.training.callbacks.protocol import Cadence, Callback, Point
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.divergence import check_finite
from wgan_cli.training.ema import ExponentialMovingAverage
from wgan_cli.training.failures import in_plain_words, tell_of_end
from wgan_cli.training.phases import Phase, untraced
from wgan_cli.training.rollback import Rollback, RollbackHistory
from wgan_cli.training.running_means import RunningMeans
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay, LearningRates
from wgan_cli.training.throughput import Throughput
from wgan_cli.training.updates import Updates


class Trainer:
    """Algorithm 1 of arXiv 1701.07875 on objects that are built already.

    `step` counts finished generator updates, `inner` the critic updates since. Nothing in `fit`
    keeps a random state or a data position: both follow from (seed, step, inner), so `load` is all
    that a resume needs. `classes` makes the networks conditional. Of a batch this process works on
    its shard, where there are several ranks.
    """

    def __init__(
        self,
        updates: Updates,
        feed: Feed,
        *,
        steps: int,
        batch_size: int,
        latent_dim: int,
        seed: int,
        schedule: CriticSchedule,
        decay: LearningRateDecay,
        ema: float,
        cadence: Cadence,
        evaluation: Evaluation | None,
        classes: ClassSampler | None = None,
        callbacks: Sequence[Callback] = (),
        signals: StopSignals | None = None,
    ) -> None:
        self.updates = updates
        self.feed = feed
        self.steps = steps
        self.batch_size = batch_size
        self.latent_dim = latent_dim
        self.seed = seed
        self.schedule = schedule
        self.decay = decay
        self.cadence = cadence
        self.evaluation = evaluation
        self.classes = classes
        self.callbacks = callbacks
        self.signals = signals
        self.shard = updates.ranks.shard
        self.phase: Phase = untraced
        self.device = next(updates.critic.parameters()).device
        self.averaged = ExponentialMovingAverage(updates.generator, ema) if ema > 0 else None
        self.rollback: Rollback | None = None
        self.step = 0
        self.inner = 0
        self.unmeasured = False
        self.returns = RollbackHistory()
        self.window = RunningMeans(self.device)
        self.pace = Throughput(batch_size)
        self._rows = batch_size // self.shard.world
        self._rates = LearningRates(updates.critic_optimizer, updates.generator_optimizer)
        self._penalised = type(updates.constraint).penalty is not Constraint.penalty
        self._fakes = JointFakes(self._make_fakes)
        self._gate_opened = 0

    @property
    def recorded(self) -> int:
        """The last step of which everything is measured, written and drawn."""
        return self.step - self.unmeasured

    @property
    def generator(self) -> nn.Module:
        """The generator that samples are drawn from: the averaged one where there is one."""
        return self.updates.generator if self.averaged is None else self.averaged.module

    @property
    def raw_generator(self) -> nn.Module | None:
        """The generator as it is trained, where samples are drawn from its average."""
        return None if self.averaged is None else self.updates.generator

    def fit(self) -> None:
        """Train up to `steps`. Raises a `WganError` where the run ends otherwise."""
        error: BaseException | None = None
        try:
            self.begin()
            self.pace.restart(self.step, self.schedule.updates_before(self.step))
            while self.step < self.steps or self.unmeasured:
                try:
                    self.advance()
                except DivergedError as diverged:
                    self.go_back(diverged)
        except Exception as raised:
            error = in_plain_words(raised, self.batch_size)
            if error is raised:
                raise
            raise error from raised
        except BaseException as raised:
            error = raised
            raise
        finally:
            try:
                tell_of_end(self, error)
            finally:
                # The next run of a sweep is in the same process.
                self.feed.close()

    def begin(self) -> None:
        """What goes before the first step of this process."""
        for callback in self.callbacks:
            callback.on_start(self)

    def advance(self) -> None:
        """One step; of a run that was stopped amid housekeeping, first the rest of that."""
        if not self.unmeasured:
            self.train_step()
        self.housekeeping()

    def train_step(self) -> None:
        """n_critic critic updates and one of the generator, and nothing else."""
        self.set_learning_rates()
        self.critic_phase()
        self.generator_phase()
        self.step += 1

    def set_learning_rates(self) -> None:
        """The decay's factor, and that of the returns so far, on every group's first rate."""
        self._rates.set(self.decay.factor(self.step) * self.returns.lr_factor)

    def critic_phase(self) -> None:
        """n_critic updates, each on fresh real and fake batches; where a few are done, the rest.

        Of a large network a whole step can take longer than one who asks for an end will wait; then
        it is saved half done.
        """
        before, updates = self.schedule.updates_before(self.step), self.schedule.updates(self.step)
        joined = updates > 1 and self.classes is None and self.updates.joins_fakes
        for inner in range(first := self.inner, updates):
            overdue = self.signals.overdue() if self.signals is not None else None
            if overdue is not None:
                self.stop(overdue)
            with self.phase("data"):
                real, labels = self.feed.batch(before + inner)
            fake = self._fakes.of(inner, first, updates, real.numel()) if joined else None
            latent = self._noise(Stream.CRITIC_NOISE, inner) if fake is None else None
            classes = None if self.classes is None else labels
            draws = Draws(self.seed, Stream.PENALTY, self.step, inner, self.shard)
            with self.phase("critic update"):
                self.window.critic += self.updates.critic_update(real, latent, draws, classes, fake)
            self.window.critic_updates += 1
            self.inner = inner + 1

    def generator_phase(self) -> None:
        """One update on fresh noise."""
        latent = self._noise(Stream.GENERATOR_NOISE)
        labels = None
        if self.classes is not None:
            draws = Draws(self.seed, Stream.CLASSES, self.step, shard=self.shard)
            labels = self.classes.draw(self._rows, draws)
        with self.phase("generator update"):
            self.window.generator += self.updates.generator_update(latent, labels)
        self.window.steps += 1
        self.inner = 0
        if self.averaged is not None:
            with self.phase("average"):
                self.averaged.follow()

    def housekeeping(self) -> None:
        """Log, sample, evaluate and save where due; stop where asked to."""
        point = self.cadence.point(self.step, self.steps)
        self.unmeasured = True
        if point.anything:
            self.measure(point)
        elif self.device.type == "cpu" and self.updates.gate.closed():
            self.check_finite({})
        self.unmeasured = False
        for callback in self.callbacks:
            with self.phase(callback.phase) if point.anything else nullcontext():
                callback.on_step(self, point)
        stop = self.signals.requested() if self.signals is not None else None
        if stop is not None and self.step < self.steps:
            self.stop(stop)

    def measure(self, point: Point) -> None:
        """Fill in the point's values. Raises `DivergedError` where one is NaN or infinite.

        A signal during an evaluation, which can take minutes, stops the run at once; the step is
        then measured when the run goes on.
        """
        regular = self.step % self.cadence.log == 0
        with self.phase("log"):
            means = self.window.means()
            self.check_finite(means)
            if point.log:
                if not self._penalised:
                    del means["critic/penalty"]
                point.values.update(means)
                point.values.update(self.updates.constraint.report(self.updates.critic))
                # What the generator says of itself, if it does.
                point.values.update(getattr(self.generator, "report", dict)())
                done = self.schedule.updates_before(self.step)
                point.values.update(self.pace.report(self.step, done, restart=regular))
        if point.evaluate and self.evaluation is not None:
            leaving = nullcontext() if self.signals is None else self.signals.at_once()
            try:
                with self.phase("evaluation"), leaving:
                    point.findings = self.evaluation(
                        self.generator, self.updates.critic, self.raw_generator
                    )
            except StopNow as now:
                self.stop(now.error)
            point.values.update(point.findings.scalars())
        if point.log and regular:
            self.window.reset()

    def check_finite(self, means: dict[str, float]) -> None:
        """Raise `DivergedError` where a number, a weight or one of these means is not finite."""
        check_finite(self.updates, means, begun=self._gate_opened, step=self.step)

    def stop(self, error: WganError) -> NoReturn:
        """Let the callbacks save what there is, if it is sound, and end the run by `error`."""
        self.check_finite(self.window.means())
        for callback in self.callbacks:
            callback.on_stop(self)
        raise error

    def go_back(self, error: DivergedError) -> None:
        """Load the newest checkpoint and lower the rates, if the run may; else raise the error."""
        if self.rollback is None:
            raise error
        self.load(self.rollback.state_to_return_to(error, self.step, self.returns))
        self.pace.restart(self.step, self.schedule.updates_before(self.step))
        for callback in self.callbacks:
            callback.on_rollback(self)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on from here, as plain dicts of tensors and numbers."""
        state = {
            "step": self.step,
            "inner": self.inner,
            "unmeasured": self.unmeasured,
            "returns": self.returns.state(),
            "world": self.shard.world,
            **self.updates.state(),
            "window": self.window.state(),
        }
        if self.averaged is not None:
            state["generator_ema"] = self.averaged.module.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state. Raises `CheckpointError` where it does not fit."""
        try:
            self.updates.load(state)
            self.window.load(state["window"])
            if self.averaged is not None:
                self.averaged.module.load_state_dict(state["generator_ema"])
                self.averaged.begun = state["step"] > 0
            self.step = int(state["step"])
            self.inner = int(state.get("inner", 0))
            self.unmeasured = bool(state.get("unmeasured", False))
            self.returns = RollbackHistory(state.get("returns"))
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"The checkpoint does not fit this run: {reason}") from None
        self.updates.gate.reopen()
        self._gate_opened = self.step

    def _make_fakes(self, inners: range) -> Sequence[Tensor]:
        latents = [self._noise(Stream.CRITIC_NOISE, inner) for inner in inners]
        with self.phase("generated samples"):
            return self.updates.fakes(latents)

    def _noise(self, stream: Stream, inner: int = 0) -> Tensor:
        with self.phase("noise"):
            draws = Draws(self.seed, stream, self.step, inner, self.shard)
            return draws.normal((self._rows, self.latent_dim), self.device)

"""The training loop: critic phase, generator phase, housekeeping."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, NoReturn

from wgan_cli.acceleration.step_graphs import StepGraphs
from wgan_cli.errors import DivergedError, WganError
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.stop_signals import StopNow, StopSignals
from wgan_cli.training.callbacks.protocol import Cadence, Callback, Phase, Point
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.divergence import check_finite
from wgan_cli.training.failures import reported_end
from wgan_cli.training.rollback import Rollback
from wgan_cli.training.run_state import RunState
from wgan_cli.training.running_means import Throughput
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay, LearningRates
from wgan_cli.training.step import TrainingStep
from wgan_cli.training.step_inputs import StepInputs


@dataclass(eq=False)
class Trainer(RunState):
    """Train a WGAN by Algorithm 1 of arXiv 1701.07875.

    Random numbers and batches depend only on (seed, step, inner), so a resume only has to call
    `load_state_dict`. For conditional networks, `classes` draws the labels of generated samples.
    With `graphs`, steps are replayed as CUDA graphs; `inputs` must then be `StagedInputs`.
    """

    inputs: StepInputs
    _: KW_ONLY
    graphs: StepGraphs | None = None
    steps: int
    batch_size: int
    latent_dim: int
    seed: int
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
        self.throughput = Throughput(self.batch_size)
        optimizers = updates.critic_optimizer, updates.generator_optimizer
        self.training_step = TrainingStep(
            updates,
            self.inputs,
            LearningRates(self.decay, *optimizers),
            self.means,
            self.ema,
            self.batch_size // updates.ranks.shard.world,
            self.latent_dim,
            self.classes,
        )

    @property
    def schedule(self) -> CriticSchedule:
        """The number of critic updates in each step."""
        return self.inputs.schedule

    @property
    def phase(self) -> Phase:
        """A function that names the parts of the run for a profiler."""
        return self.training_step.phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self.training_step.phase = phase

    def fit(self) -> None:
        """Train until step `steps`. Raise a `WganError` if the run ends earlier."""
        # Call the first callback last: it records how the run ended, even if another callback
        # fails.
        on_end = [partial(callback.on_end, self) for callback in reversed(self.callbacks)]
        with closing(self), reported_end(on_end, self.batch_size):
            self.start()
            self._restart_throughput()
            while self.step < self.steps or self.unmeasured:
                try:
                    self.advance()
                except DivergedError as diverged:
                    self.roll_back(diverged)

    def close(self) -> None:
        """End the processes that read data, and free the CUDA graphs."""
        self.inputs.feed.close()
        if self.graphs is not None:
            self.graphs.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the run's state for a checkpoint, as plain dicts of tensors and numbers."""
        state = super().state_dict()
        # Rates on the device are rounded to float32.
        if (rates := self.training_step.current_rates()) is not None:
            groups = [
                group
                for name in ("critic_optimizer", "generator_optimizer")
                for group in state[name]["param_groups"]
            ]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a checkpoint's state. Raise `CheckpointError` if it does not fit this run."""
        super().load_state_dict(state)
        self.training_step.restart()
        if self.rollbacks:
            self.training_step.rates.factor = self.rollbacks[-1].lr_factor
        if self.graphs is not None:
            # Loading moves the tensors that the graphs use.
            self.graphs.reset()

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
        self.training_step.begin(self.step, self.cadence.next_log(self.step, self.steps))
        if self.graphs is not None and self.graphs.possible and self.inner == 0:
            count = self.schedule.updates(self.step)
            with self.phase("step"):
                self.graphs.run(self.training_step, count)
            self.means.critic_updates += count
        else:
            self.training_step.start()
            self.critic_phase()
            self.training_step.generator_update()
            self.training_step.finish()
        self.means.steps += 1
        self.step += 1
        self.inner = 0

    def critic_phase(self) -> None:
        """Do the step's remaining critic updates.

        If a stop request has waited too long, save and stop the run between two critic updates.
        """
        while self.inner < self.schedule.updates(self.step):
            overdue = self.signals.overdue()
            if overdue is not None:
                self.stop(overdue)
            self.training_step.critic_update(self.inner)
            self.means.critic_updates += 1
            self.inner += 1

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

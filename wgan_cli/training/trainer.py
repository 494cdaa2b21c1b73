"""The training loop: critic phase, generator phase, housekeeping."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wgan_cli.constraints import Constraint
from wgan_cli.data.feeds import Feed
from wgan_cli.errors import CheckpointError, DivergedError, WganError
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.evaluation.sampling import generate
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.classes import Classes
from wgan_cli.training.failures import in_plain_words
from wgan_cli.training.interrupts import StopSignals
from wgan_cli.training.points import Cadence, Callback, Point
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.updates import Updates
from wgan_cli.training.window import Window

COLUMNS = 8
SAMPLE_COUNT = 8 * COLUMNS
CLASS_ROWS = 20


class Trainer:
    """Algorithm 1 of arXiv 1701.07875 on objects that are built already.

    `step` counts finished generator updates. Nothing in `fit` keeps a random state or a data
    position: both follow from (seed, step), so `load` is all that a resume needs. `classes` makes
    the networks conditional.
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
        evaluation: Evaluation,
        classes: Classes | None = None,
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
        self.device = next(updates.critic.parameters()).device
        self.averaged = (
            AveragedModel(
                updates.generator, multi_avg_fn=get_ema_multi_avg_fn(ema), use_buffers=True
            )
            if ema > 0
            else None
        )
        self.step = 0
        self.window = Window(self.device)
        self._latent_shape = (batch_size, latent_dim)
        self._base_rates = [
            (group, float(group["lr"]))
            for optimizer in (updates.critic_optimizer, updates.generator_optimizer)
            for group in optimizer.param_groups
        ]
        self._penalised = type(updates.constraint).penalty is not Constraint.penalty
        self._clock = (time.perf_counter(), 0, 0)

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
            for callback in self.callbacks:
                callback.on_start(self)
            self._clock = (time.perf_counter(), self.step, self._critic_updates_done())
            while self.step < self.steps:
                self.set_learning_rates()
                self.critic_phase()
                self.generator_phase()
                self.step += 1
                self.housekeeping()
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
                for callback in self.callbacks:
                    callback.on_end(self, error)
            finally:
                # The next run of a sweep is in the same process.
                self.feed.close()

    def set_learning_rates(self) -> None:
        """The decay's factor on every group's first rate."""
        factor = self.decay.factor(self.step)
        for group, rate in self._base_rates:
            group["lr"] = rate * factor

    def critic_phase(self) -> None:
        """n_critic updates, each on fresh real and fake batches."""
        first = self.schedule.updates_before(self.step)
        for inner in range(self.schedule.updates(self.step)):
            real, labels = self.feed.batch(first + inner)
            latent = self._noise(Stream.CRITIC_NOISE, inner)
            draws = Draws(self.seed, Stream.PENALTY, self.step, inner)
            classes = None if self.classes is None else labels
            self.window.critic += self.updates.critic_update(real, latent, draws, classes)
            self.window.critic_updates += 1

    def generator_phase(self) -> None:
        """One update on fresh noise."""
        latent = self._noise(Stream.GENERATOR_NOISE)
        labels = None
        if self.classes is not None:
            draws = Draws(self.seed, Stream.CLASSES, self.step)
            labels = self.classes.draw(self.batch_size, draws)
        self.window.generator += self.updates.generator_update(latent, labels)
        self.window.steps += 1
        if self.averaged is not None:
            self.averaged.update_parameters(self.updates.generator)

    def housekeeping(self) -> None:
        """Log, sample, evaluate and save where due; stop where asked to."""
        point = self.cadence.point(self.step, self.steps)
        if point.anything:
            self.measure(point)
        for callback in self.callbacks:
            callback.on_step(self, point)
        stop = self.signals.requested() if self.signals is not None else None
        if stop is not None and self.step < self.steps:
            self.stop(stop)

    def measure(self, point: Point) -> None:
        """Fill in the point's values. Raises `DivergedError` where one is NaN or infinite."""
        means = self.window.means()
        self.check_finite(means)
        self.check_finite(self._weight_norms())
        if point.log:
            if not self._penalised:
                del means["critic/penalty"]
            point.values.update(means)
            point.values.update(self.updates.constraint.report(self.updates.critic))
            point.values.update(_report(self.generator))
            regular = self.step % self.cadence.log == 0
            point.values.update(self._throughput(restart=regular))
            if regular:
                self.window.reset()
        if point.evaluate:
            point.findings = self.evaluation(
                self.generator, self.updates.critic, self.raw_generator
            )
            point.values.update(point.findings.scalars())

    def check_finite(self, means: dict[str, float]) -> None:
        """Raise if any update since the last log point gave NaN: its mean, the sum's, shows it."""
        broken = [
            tag for tag, value in means.items() if value != value or abs(value) == float("inf")
        ]
        if broken:
            raise DivergedError(
                f"{broken[0]} became NaN or infinite in the {self.window.steps} steps up to step"
                f" {self.step}. A lower optimizer.lr or a constraint on the critic usually helps;"
                " checkpoints are from before."
            )

    def stop(self, error: WganError) -> None:
        """Let the callbacks save what there is, if it is sound, and end the run by `error`."""
        self.check_finite(self.window.means())
        self.check_finite(self._weight_norms())
        for callback in self.callbacks:
            callback.on_stop(self)
        raise error

    def sample(self, generator: nn.Module) -> Tensor:
        """The fixed-noise samples of the pictures, (64, *sample shape), floats on the device.

        With classes a row of eight for each of the first 20, from the same noise in every row.
        """
        draws = Draws(self.seed, Stream.SAMPLES)
        if self.classes is None:
            return generate(generator, draws.normal((SAMPLE_COUNT, self.latent_dim), self.device))
        labels = self.classes.rows(CLASS_ROWS, COLUMNS)
        latent = draws.normal((COLUMNS, self.latent_dim), self.device)
        return generate(generator, latent.repeat(len(labels) // COLUMNS, 1), labels)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on from here, as plain dicts of tensors and numbers."""
        updates = self.updates
        state = {
            "step": self.step,
            "generator": updates.generator.state_dict(),
            "critic": updates.critic.state_dict(),
            "generator_optimizer": updates.generator_optimizer.state_dict(),
            "critic_optimizer": updates.critic_optimizer.state_dict(),
            "window": self.window.state(),
        }
        if self.averaged is not None:
            state["generator_ema"] = self.averaged.module.state_dict()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state. Raises `CheckpointError` where it does not fit."""
        updates = self.updates
        try:
            updates.generator.load_state_dict(state["generator"])
            updates.critic.load_state_dict(state["critic"])
            updates.generator_optimizer.load_state_dict(state["generator_optimizer"])
            updates.critic_optimizer.load_state_dict(state["critic_optimizer"])
            self.window.load(state["window"])
            if self.averaged is not None:
                self.averaged.module.load_state_dict(state["generator_ema"])
                # Anything but 0, which would make the next average a plain copy.
                self.averaged.n_averaged.fill_(state["step"])
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"The checkpoint does not fit this run: {reason}") from None
        # Loading replaces the param groups' dicts.
        optimizers = (updates.critic_optimizer, updates.generator_optimizer)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = [rate for _, rate in self._base_rates]
        self._base_rates = list(zip(groups, rates, strict=True))

    def _noise(self, stream: Stream, inner: int = 0) -> Tensor:
        return Draws(self.seed, stream, self.step, inner).normal(self._latent_shape, self.device)

    def _weight_norms(self) -> dict[str, float]:
        """A broken last update does not show in any loss yet."""
        networks = {"generator": self.updates.generator, "critic": self.updates.critic}
        return {
            f"a weight of the {name}": float(nn.utils.get_total_norm(network.parameters()))
            for name, network in networks.items()
        }

    def _critic_updates_done(self) -> int:
        return self.schedule.updates_before(self.step)

    def _throughput(self, restart: bool) -> dict[str, float]:
        then, step, critic_updates = self._clock
        now, done = time.perf_counter(), self._critic_updates_done()
        if restart:
            self._clock = (now, self.step, done)
        if self.step == step:
            return {}
        seconds = max(now - then, 1e-9)
        return {
            "throughput/images_per_second": (done - critic_updates) * self.batch_size / seconds,
            "throughput/step_ms": 1000 * seconds / (self.step - step),
        }


def _report(generator: nn.Module) -> dict[str, float]:
    """What a generator says of itself at a log point, by tag, if it has a `report`."""
    report: Callable[[], dict[str, float]] | None = getattr(generator, "report", None)
    return {} if report is None else report()

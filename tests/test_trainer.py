"""The trainer in process, with tiny networks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import exhaustive_beyond
from torch import Tensor, nn
from torch.nn.functional import softplus

from wgan_cli.constraints import Constraint, WeightClipping
from wgan_cli.data.dataset import TensorDataset
from wgan_cli.data.feeds import Batch, Feed
from wgan_cli.errors import CheckpointError, DivergedError, PreemptedError
from wgan_cli.evaluation.evaluation import Evaluation
from wgan_cli.evaluation.samples import Reference
from wgan_cli.evaluation.sampling import generate
from wgan_cli.losses import Loss, Wasserstein
from wgan_cli.models import dcgan, mlp
from wgan_cli.randomness import FULL_BATCH, Draws, Stream
from wgan_cli.schema import METRICS
from wgan_cli.stop_signals import StopSignals
from wgan_cli.training.callbacks.protocol import Cadence, Callback, Point
from wgan_cli.training.callbacks.sample_pictures import fixed_samples
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.step_inputs import StepInputs
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS, Updates

CPU = torch.device("cpu")
IMAGE = (1, 8, 8)
BATCH = 8
LATENT = 3
NEVER = 10**9
TIMED = (
    "throughput/images_per_second",
    "throughput/step_ms",
    "throughput/evaluation_seconds",
)
# All that unlabelled images have, without Inception, whose weights are not here.
MEASURED = [
    tag
    for tag, traits in METRICS.items()
    if traits.needs in ("samples", "images") and not tag.endswith("_inception")
]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(count: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, *IMAGE), dtype=np.uint8))


class Recorder(Callback):
    """Every point with values, and who was called when."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.calls: list[str] = []
        self.error: BaseException | None = None

    def on_start(self, trainer: Trainer, point: Point) -> None:
        self.calls.append(f"start {trainer.step}")

    def on_step(self, trainer: Trainer, point: Point) -> None:
        assert trainer.step == point.step
        self.calls.append(f"step {trainer.step}")
        if point.anything:
            self.points.append(point)

    def on_stop(self, trainer: Trainer) -> None:
        self.calls.append(f"stop {trainer.step}")

    def on_end(self, trainer: Trainer, error: BaseException | None) -> None:
        self.calls.append(f"end {trainer.step}")
        self.error = error

    def at(self, step: int) -> Point:
        return next(point for point in self.points if point.step == step)


class Counting:
    """A feed that notes which batches were asked for."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.asked: list[int] = []

    def batch(self, update: int) -> Batch:
        self.asked.append(update)
        return self.feed.batch(update)

    def close(self) -> None:
        self.feed.close()


def make_trainer(
    steps: int = 5,
    *,
    model: str = "mlp",
    seed: int = 0,
    log: int = 2,
    sample: int = NEVER,
    checkpoint: int = NEVER,
    evaluate: int = NEVER,
    schedule: CriticSchedule | None = None,
    decay: LearningRateDecay | None = None,
    ema: float = 0.0,
    metrics: Sequence[str] = (),
    loss: Loss | None = None,
    constraint: Constraint | None = None,
    make: Any = torch.optim.RMSprop,
    lr: float = 1e-3,
    callbacks: Sequence[Callback] = (),
    signals: StopSignals | None = None,
    relativistic: bool = False,
) -> Trainer:
    dataset = TensorDataset("noise", images(37, 1), images(16, 2))
    with Draws(seed, Stream.GENERATOR_WEIGHTS).global_seed():
        if model == "mlp":
            generator: nn.Module = mlp.Generator(LATENT, IMAGE, width=8, depth=1)
            critic: nn.Module = mlp.Critic(IMAGE, width=8, depth=1)
        else:
            generator = dcgan.Generator(LATENT, IMAGE, width=2)
            critic = nn.Sequential(
                nn.Conv2d(1, 2, 4, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 4), nn.Flatten(0)
            )
    reference = Reference(dataset, CPU, cache=Path())
    return Trainer(
        Updates(
            generator,
            critic,
            make(generator.parameters(), lr=lr),
            make(critic.parameters(), lr=lr),
            loss or Wasserstein(),
            constraint or WeightClipping(0.05),
            generator_needs_real_scores=relativistic,
        ),
        StepInputs(dataset.feed(BATCH, seed, CPU), schedule or CriticSchedule(2), seed, FULL_BATCH),
        steps=steps,
        batch_size=BATCH,
        latent_dim=LATENT,
        seed=seed,
        decay=decay or LearningRateDecay(),
        ema_decay=ema,
        cadence=Cadence(log, sample, checkpoint, evaluate),
        evaluation=Evaluation(metrics, reference, LATENT, seed),
        callbacks=callbacks,
        signals=signals or StopSignals(),
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    state = trainer.state_dict()
    names = ("generator", "critic", "generator_ema")
    return {
        f"{network}.{name}": tensor.clone()
        for network in names
        for name, tensor in state.get(network, {}).items()
    }


def identical(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def untimed(point: Point) -> dict[str, float]:
    return {tag: value for tag, value in point.scalars.items() if tag not in TIMED}


def record_terms(trainer: Trainer) -> tuple[list[list[Tensor]], list[Tensor]]:
    """The terms of every update from now on: the critic's by step, and the generator's."""
    critic: list[list[Tensor]] = [[]]
    generator: list[Tensor] = []
    critic_update, generator_update = (
        trainer.updates.critic_update,
        trainer.updates.generator_update,
    )

    def noting_critic(*arguments: Any) -> Tensor:
        terms = critic_update(*arguments)
        critic[-1].append(terms.clone())
        return terms

    def noting_generator(*arguments: Any) -> Tensor:
        terms = generator_update(*arguments)
        generator.append(terms.clone())
        critic.append([])
        return terms

    trainer.updates.critic_update = noting_critic
    trainer.updates.generator_update = noting_generator
    return critic, generator


def mean_terms(
    critic: list[list[Tensor]], generator: list[Tensor], first: int, last: int
) -> dict[str, float]:
    """Means over the steps after `first` up to `last`, in float64."""
    updates = torch.stack([terms for step in critic[first:last] for terms in step]).double()
    steps = torch.stack(generator[first:last]).double()
    means = [*updates.mean(dim=0).tolist(), *steps.mean(dim=0).tolist()]
    return dict(zip((*CRITIC_TERMS, *GENERATOR_TERMS), means, strict=True))


def test_a_log_point_averages_every_update_since_the_one_before():
    recorder = Recorder()
    trainer = make_trainer(
        7, log=3, schedule=CriticSchedule(2, 1, 5, 4), callbacks=[recorder], lr=0.01
    )
    critic, generator = record_terms(trainer)
    trainer.fit()
    assert [len(step) for step in critic[:7]] == [5, 2, 2, 2, 5, 2, 2]
    assert [point.step for point in recorder.points if point.log] == [3, 6, 7]
    for first, last in ((0, 3), (3, 6), (6, 7)):
        expected = mean_terms(critic, generator, first, last)
        values = recorder.at(last).scalars
        for tag in (*CRITIC_TERMS, *GENERATOR_TERMS):
            if tag != "critic/penalty":
                assert values[tag] == pytest.approx(expected[tag], rel=1e-5, abs=1e-8), tag
        assert "critic/penalty" not in values


def test_a_penalty_is_logged_where_there_is_one():
    class Constant(Constraint):
        def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> Tensor:
            return torch.tensor(0.5) + 0 * next(critic.parameters()).sum()

    recorder = Recorder()
    make_trainer(2, constraint=Constant(), callbacks=[recorder]).fit()
    assert recorder.at(2).scalars["critic/penalty"] == pytest.approx(0.5)


def test_an_evaluation_between_log_points_ends_no_window():
    plain, between = Recorder(), Recorder()
    make_trainer(4, log=4, callbacks=[plain]).fit()
    metrics = ["wasserstein/exact"]
    make_trainer(4, log=4, evaluate=1, sample=1, metrics=metrics, callbacks=[between]).fit()
    shown = untimed(between.at(4))
    assert {tag: shown[tag] for tag in untimed(plain.at(4))} == untimed(plain.at(4))
    assert set(between.at(3).scalars) >= {"wasserstein/exact"}
    assert "critic/loss" not in between.at(3).scalars


def test_an_extra_last_point_resets_nothing():
    whole = Recorder()
    make_trainer(6, log=4, callbacks=[whole]).fit()
    assert [point.step for point in whole.points] == [4, 6]

    stopped = make_trainer(5, log=4, callbacks=[Recorder()])
    stopped.fit()
    assert stopped.means.steps == 1
    assert stopped.means.critic_updates == 2
    recorder = Recorder()
    resumed = make_trainer(6, log=4, callbacks=[recorder])
    resumed.load_state_dict(stopped.state_dict())
    resumed.fit()
    assert untimed(recorder.at(6)) == untimed(whole.at(6))


def test_a_regular_last_point_starts_the_next_window():
    trainer = make_trainer(4, log=2)
    trainer.fit()
    assert trainer.means.steps == trainer.means.critic_updates == 0


def test_the_last_step_is_a_point_of_every_kind_and_only_once():
    recorder = Recorder()
    trainer = make_trainer(
        6, log=2, sample=3, checkpoint=4, evaluate=6, metrics=MEASURED, callbacks=[recorder]
    )
    trainer.fit()
    due = [(p.step, p.log, p.sample, p.save, p.evaluate) for p in recorder.points]
    assert due == [
        (2, True, False, False, False),
        (3, False, True, False, False),
        (4, True, False, True, False),
        (6, True, True, True, True),
    ]
    values = recorder.at(6).scalars
    assert values["wasserstein/exact_n"] == 8
    assert {"critic/wasserstein_heldout", "critic/lipschitz", "critic/clip_saturation"} <= set(
        values
    )
    assert all(np.isfinite(value) for value in values.values())


def test_updates_and_batches_are_counted_exactly():
    schedule = CriticSchedule(3, 2, 5, 4)
    recorder = Recorder()
    trainer = make_trainer(9, schedule=schedule, callbacks=[recorder])
    feed = Counting(trainer.inputs.feed)
    trainer.inputs.feed = feed
    critic, generator = record_terms(trainer)
    trainer.fit()
    assert trainer.step == 9
    assert len(generator) == 9
    assert [len(step) for step in critic[:9]] == [5, 5, 3, 3, 5, 3, 3, 3, 5]
    assert feed.asked == list(range(35))
    assert recorder.calls == ["start 0", *(f"step {n}" for n in range(1, 10)), "end 9"]


def test_every_update_gets_noise_of_its_own():
    trainer = make_trainer(4, schedule=CriticSchedule(3))
    seen: list[Tensor] = []
    draws_seen: list[Draws] = []
    critic_update, generator_update = (
        trainer.updates.critic_update,
        trainer.updates.generator_update,
    )

    def noting_critic(
        real: Tensor, latent: Tensor, draws: Draws, labels: None, fake: None
    ) -> Tensor:
        seen.append(latent)
        draws_seen.append(draws)
        return critic_update(real, latent, draws, labels, fake)

    def noting_generator(latent: Tensor, labels: None, real: None) -> Tensor:
        seen.append(latent)
        return generator_update(latent, labels, real)

    trainer.updates.critic_update = noting_critic
    trainer.updates.generator_update = noting_generator
    trainer.fit()
    assert len(seen) == 16
    assert all(latent.shape == (BATCH, LATENT) for latent in seen)
    assert len({tuple(latent.flatten().tolist()) for latent in seen}) == 16
    assert len(set(draws_seen)) == 12


def test_throughput_counts_real_images_and_steps(monkeypatch: pytest.MonkeyPatch):
    clock = iter(float(second) for second in range(100))
    monkeypatch.setattr("wgan_cli.training.running_means.time.perf_counter", lambda: next(clock))
    recorder = Recorder()
    make_trainer(5, log=2, schedule=CriticSchedule(3), callbacks=[recorder]).fit()
    for step, done in ((2, 2), (4, 2), (5, 1)):
        values = recorder.at(step).scalars
        assert values["throughput/images_per_second"] == done * 3 * BATCH
        assert values["throughput/step_ms"] == 1000 / done


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
@pytest.mark.parametrize(
    ("network", "term"), [("generator", "critic/loss_fake"), ("critic", "critic/loss_real")]
)
def test_a_nan_weight_ends_the_run_at_the_next_point(model: str, network: str, term: str):
    class Poison(Callback):
        def on_step(self, trainer: Trainer, point: Point) -> None:
            if trainer.step == 3:
                parameters = getattr(trainer.updates, network).parameters()
                with torch.no_grad():
                    next(iter(parameters)).fill_(float("nan"))

    recorder = Recorder()
    trainer = make_trainer(20, model=model, log=5, checkpoint=1, callbacks=[recorder, Poison()])
    with pytest.raises(DivergedError, match=f"{term} became NaN in step 4"):
        trainer.fit()
    assert trainer.step == 4
    assert [point.step for point in recorder.points if point.save] == [1, 2, 3]
    assert isinstance(recorder.error, DivergedError)
    assert recorder.calls[-1] == "end 4"


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_divergence_names_the_term(broken: float):
    class Broken(Wasserstein):
        def generator(self, fake_scores: Tensor) -> Tensor:
            return -fake_scores.mean() + broken

    with pytest.raises(DivergedError, match=r"generator/loss became (NaN|infinite) in step 1"):
        make_trainer(5, loss=Broken()).fit()


def test_divergence_in_any_update_of_a_window_is_seen():
    class Once(Wasserstein):
        calls = 0

        def generator(self, fake_scores: Tensor) -> Tensor:
            self.calls += 1
            loss = -fake_scores.mean()
            # A constant has no gradient, so only this one number is broken.
            return loss + float("nan") if self.calls == 2 else loss

    with pytest.raises(DivergedError, match="generator/loss became NaN in step 2"):
        make_trainer(10, log=10, loss=Once()).fit()


def test_weights_that_the_last_update_made_infinite_are_no_finished_run():
    class Overflow(torch.optim.SGD):
        steps = 0

        def step(self, *arguments: Any, **more: Any) -> None:
            super().step(*arguments, **more)
            self.steps += 1
            if self.steps == 2:
                with torch.no_grad():
                    for parameter in self.param_groups[0]["params"]:
                        parameter.mul_(1e38).mul_(1e38)

    recorder = Recorder()
    trainer = make_trainer(2, schedule=CriticSchedule(1), metrics=MEASURED, callbacks=[recorder])
    generator = trainer.updates.generator
    trainer.updates.generator_optimizer = Overflow(generator.parameters(), lr=1e-3)
    with pytest.raises(DivergedError):
        trainer.fit()
    assert not [point for point in recorder.points if point.save]


class Meddler(Callback):
    """Looks at everything a callback may look at, and spoils the global random states."""

    def on_start(self, trainer: Trainer, point: Point) -> None:
        self.on_step(trainer, point)

    def on_step(self, trainer: Trainer, point: Point) -> None:
        torch.rand(3)
        np.random.random(3)
        fixed_samples(trainer, trainer.generator)
        trainer.state_dict()
        trainer.evaluation(trainer.generator, trainer.updates.critic)
        trainer.updates.constraint.report(trainer.updates.critic)


@pytest.mark.parametrize(
    ("model", "ema"),
    exhaustive_beyond([("dcgan", 0.9)], itertools.product(["mlp", "dcgan"], [0.0, 0.9])),
)
def test_looking_at_a_run_does_not_change_a_bit(model: str, ema: float):
    plain = make_trainer(6, model=model, log=NEVER, ema=ema)
    plain.fit()
    looked_at = make_trainer(
        6,
        model=model,
        log=1,
        sample=1,
        checkpoint=1,
        evaluate=1,
        ema=ema,
        metrics=MEASURED,
        callbacks=[Meddler()],
    )
    looked_at.fit()
    assert identical(weights(plain), weights(looked_at))
    for network in (looked_at.updates.generator, looked_at.updates.critic):
        assert all(module.training for module in network.modules())


def test_one_seed_repeats_and_two_seeds_differ():
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))
        trainer = make_trainer(3, seed=seed)
        trainer.fit()
        runs.append(weights(trainer))
    assert identical(runs[0], runs[1])
    assert not identical(runs[0], runs[2])


@pytest.mark.parametrize("make", [torch.optim.RMSprop, torch.optim.Adam])
@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(model: str, make: Any):
    settings: dict[str, Any] = {
        "model": model,
        "make": make,
        "log": 4,
        "ema": 0.9,
        "schedule": CriticSchedule(2, 1, 3, 5),
        "decay": LearningRateDecay("linear", 14),
        "metrics": MEASURED,
    }
    recorder = Recorder()
    whole = make_trainer(14, **settings, callbacks=[recorder])
    whole.fit()
    first = make_trainer(7, **settings)
    first.fit()
    again = Recorder()
    second = make_trainer(14, **settings, callbacks=[again])
    second.load_state_dict(first.state_dict())
    second.fit()
    assert again.calls[0] == "start 7"
    assert identical(weights(whole), weights(second))
    for step in (8, 12, 14):
        assert untimed(again.at(step)) == untimed(recorder.at(step))


def test_a_state_that_does_not_fit_is_refused():
    state = make_trainer(model="dcgan").state_dict()
    with pytest.raises(CheckpointError, match="does not fit"):
        make_trainer(model="mlp").load_state_dict(state)
    with pytest.raises(CheckpointError, match="does not fit"):
        make_trainer().load_state_dict({"step": 3})
    with pytest.raises(CheckpointError, match="does not fit"):
        make_trainer(ema=0.9).load_state_dict(make_trainer().state_dict())


@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_moving_average_is_the_one_computed_by_hand(model: str):
    trail: list[dict[str, Tensor]] = []

    class Keep(Callback):
        def on_step(self, trainer: Trainer, point: Point) -> None:
            state = trainer.updates.generator.state_dict()
            trail.append({name: tensor.double().clone() for name, tensor in state.items()})

    trainer = make_trainer(6, model=model, ema=0.75, lr=0.05, callbacks=[Keep()])
    trainer.fit()
    average = trail[0]
    for state in trail[1:]:
        average = {name: 0.75 * average[name] + 0.25 * state[name] for name in average}
    kept = trainer.state_dict()["generator_ema"]
    for name, tensor in kept.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), average[name], rtol=1e-5, atol=1e-6)
    assert kept.keys() == average.keys()
    assert trainer.generator is not trainer.updates.generator


def test_moving_average_changes_nothing_that_is_trained():
    runs = []
    for ema in (0.0, 0.9):
        trainer = make_trainer(4, model="dcgan", ema=ema)
        trainer.fit()
        runs.append({k: v for k, v in weights(trainer).items() if "ema" not in k})
    assert identical(*runs)


def test_samples_are_of_the_average_and_always_of_the_same_noise():
    trainer = make_trainer(3, ema=0.9, lr=0.05)
    trainer.fit()
    first = fixed_samples(trainer, trainer.generator)
    assert first.shape == (64, *IMAGE)
    assert torch.equal(first, fixed_samples(trainer, trainer.generator))
    latent = Draws(0, Stream.SAMPLES).normal((64, LATENT), CPU)
    assert torch.equal(first, generate(trainer.ema.module, latent))
    assert not torch.equal(first, generate(trainer.updates.generator, latent))


def test_learning_rates_follow_the_decay():
    rates: list[list[float]] = []
    trainer = make_trainer(4, decay=LearningRateDecay("linear", 4), lr=0.1)
    trainer.updates.critic_optimizer.param_groups[0]["lr"] = 0.2
    trainer = Trainer(
        trainer.updates,
        trainer.inputs,
        steps=4,
        batch_size=BATCH,
        latent_dim=LATENT,
        seed=0,
        decay=trainer.decay,
        ema_decay=0.0,
        cadence=trainer.cadence,
        evaluation=trainer.evaluation,
    )
    generator_update = trainer.updates.generator_update

    def noting(latent: Tensor, labels: None, real: None) -> Tensor:
        optimizers = (trainer.updates.critic_optimizer, trainer.updates.generator_optimizer)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        return generator_update(latent, labels, real)

    trainer.updates.generator_update = noting
    trainer.fit()
    expected = [[0.2 * f, 0.1 * f] for f in (1.0, 0.75, 0.5, 0.25)]
    assert rates == [pytest.approx(pair) for pair in expected]


def test_a_stop_is_after_a_whole_step_with_a_chance_to_save():
    class Signals(StopSignals):
        asked = 0

        def requested(self) -> PreemptedError | None:
            self.asked += 1
            return PreemptedError("stop") if self.asked == 3 else None

    recorder = Recorder()
    trainer = make_trainer(9, callbacks=[recorder], signals=Signals())
    with pytest.raises(PreemptedError):
        trainer.fit()
    assert trainer.step == 3
    assert recorder.calls[-3:] == ["step 3", "stop 3", "end 3"]


def test_a_stop_after_the_last_evaluation_is_a_finish():
    class Signals(StopSignals):
        asked = 0

        def requested(self) -> PreemptedError | None:
            self.asked += 1
            return PreemptedError("stop") if self.asked > 1 else None

    recorder = Recorder()
    trainer = make_trainer(1, callbacks=[recorder], signals=Signals())
    trainer.fit()
    assert recorder.calls == ["start 0", "step 1", "end 1"]
    assert recorder.error is None


def test_callbacks_end_also_where_one_fails():
    class Failing(Callback):
        def on_step(self, trainer: Trainer, point: Point) -> None:
            raise OSError("disk")

    recorder = Recorder()
    with pytest.raises(OSError, match="disk"):
        make_trainer(3, callbacks=[recorder, Failing()]).fit()
    assert isinstance(recorder.error, OSError)


class Relativistic(Loss):
    """RpGAN (arXiv 1807.00734, equations 9 and 10) with f(x) = softplus."""

    def critic(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(fake_scores - real_scores).mean(), fake_scores.mean() * 0

    def generator(self, fake_scores: Tensor, real_scores: Tensor | None = None) -> Tensor:
        assert real_scores is not None
        return softplus(real_scores - fake_scores).mean()


def test_a_relativistic_generator_is_scored_against_the_last_real_batch():
    schedule = CriticSchedule(3, 1, 5)
    trainer = make_trainer(3, schedule=schedule, loss=Relativistic(), relativistic=True)
    feed = Counting(trainer.inputs.feed)
    trainer.inputs.feed = feed
    generator_update, terms, expected = trainer.updates.generator_update, [], []

    def noting(latent: Tensor, labels: None, real: Tensor) -> Tensor:
        last = schedule.updates_before(trainer.step + 1) - 1
        with torch.no_grad():
            real_scores = trainer.updates.critic(feed.feed.batch(last).samples)
            fake_scores = trainer.updates.critic(trainer.updates.generator(latent))
            expected.append(float(torch.log1p((real_scores - fake_scores).exp()).mean()))
        before = [p.clone() for p in trainer.updates.critic.parameters()]
        terms.append(generator_update(latent, labels, real))
        assert all(map(torch.equal, before, trainer.updates.critic.parameters()))
        assert all(p.requires_grad for p in trainer.updates.critic.parameters())
        return terms[-1]

    trainer.updates.generator_update = noting
    trainer.fit()
    assert [float(t[0]) for t in terms] == pytest.approx(expected, rel=1e-5)
    # The batch is kept: a feed that streams would start to read again.
    assert feed.asked == list(range(11))


class CutError(Exception):
    """The end of a step in the middle."""


@pytest.mark.parametrize("end", range(8))
def test_a_relativistic_run_resumed_after_any_update_is_the_uninterrupted_one(end: int):
    settings: dict[str, Any] = {"loss": Relativistic(), "relativistic": True, "model": "dcgan"}
    whole, cut, resumed = (make_trainer(3, **settings) for _ in range(3))
    whole.fit()
    updates: list[int] = []

    def counted(update: Any) -> Any:
        def run(*arguments: Any) -> Tensor:
            if len(updates) == end:
                raise CutError
            updates.append(1)
            return update(*arguments)

        return run

    cut.updates.critic_update = counted(cut.updates.critic_update)
    cut.updates.generator_update = counted(cut.updates.generator_update)
    with pytest.raises(CutError):
        cut.fit()
    assert (cut.step, cut.inner) == divmod(end, 3)
    resumed.load_state_dict(copy.deepcopy(cut.state_dict()))
    resumed.fit()
    assert identical(weights(whole), weights(resumed))

"""Two ranks compute what one process computes: in float64, for every loss and constraint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import exhaustive_beyond
from several_ranks import groups
from torch import Tensor, nn
from torch.distributed import HashStore

from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.constraints import (
    Constraint,
    GradientPenalty,
    OrthogonalRegularization,
    SpectralNorm,
    Unconstrained,
    WeightClipping,
)
from wgan_cli.data.dataset import EndlessDataset, Labels, TensorDataset
from wgan_cli.data.feeds import Batch, Feed
from wgan_cli.distributed import process_group
from wgan_cli.distributed.process import Process
from wgan_cli.distributed.process_group import ALONE, ProcessGroup, SingleProcess
from wgan_cli.errors import InterruptedRunError, PreemptedError, WganError
from wgan_cli.losses import Gan, Hinge, Loss, Wasserstein
from wgan_cli.models import dcgan, lipschitz, mlp
from wgan_cli.optimizers import RMSprop
from wgan_cli.randomness import Draws, Shard, Stream
from wgan_cli.stop_signals import SharedStopSignals, StopSignals
from wgan_cli.training.callbacks.protocol import Cadence
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.step_inputs import StepInputs
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates

CPU = torch.device("cpu")
IMAGE = (1, 8, 8)
LATENT, BATCH, STEPS, CLASSES = 4, 12, 50, 3
NEVER = 10**9


class Case(NamedTuple):
    """What is trained."""

    loss: Callable[[], Loss] = Wasserstein
    constraint: Callable[[], Constraint] = Unconstrained
    networks: str = "mlp"
    conditional: bool = False
    optimizer: Callable[..., torch.optim.Optimizer] = RMSprop
    grad_clip: tuple[float | None, float | None] = (None, None)


LOSSES: dict[str, Callable[[], Loss]] = {
    "wasserstein": Wasserstein,
    "hinge": Hinge,
    "gan": Gan,
    "minimax": partial(Gan, saturating=True),
}
CONSTRAINTS: dict[str, Callable[[], Constraint]] = {
    "clip": partial(WeightClipping, 0.05),
    "gradient_penalty": GradientPenalty,
    "one_sided": partial(GradientPenalty, one_sided=True),
    "spectral_norm": partial(SpectralNorm, 4),
    "orthogonal": partial(OrthogonalRegularization, 0.1),
    "none": Unconstrained,
}
CASES = {
    f"{loss}-{constraint}": Case(LOSSES[loss], CONSTRAINTS[constraint])
    for loss in LOSSES
    for constraint in CONSTRAINTS
} | {
    "dcgan": Case(Hinge, CONSTRAINTS["gradient_penalty"], "dcgan"),
    "dcgan-spectral_norm": Case(Wasserstein, CONSTRAINTS["spectral_norm"], "dcgan"),
    "lipschitz": Case(Wasserstein, Unconstrained, "lipschitz"),
    "conditional": Case(Wasserstein, GradientPenalty, conditional=True),
    "conditional-dcgan": Case(Hinge, CONSTRAINTS["clip"], "dcgan", conditional=True),
    "adam": Case(Wasserstein, GradientPenalty, optimizer=partial(torch.optim.Adam)),
    "grad_clip": Case(Wasserstein, Unconstrained, grad_clip=(1e-3, 1e-4)),
}
USUAL = ["wasserstein-clip", "hinge-gradient_penalty", "dcgan-spectral_norm", "conditional"]


class Double:
    """A feed's batches in float64."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def batch(self, update: int) -> Batch:
        samples, labels = self.feed.batch(update)
        return Batch(samples.double(), labels)

    def close(self) -> None:
        self.feed.close()


class DoubleDraws(Draws):
    def normal(self, shape: Sequence[int], device: torch.device) -> Tensor:
        return super().normal(shape, device).double()


class DoubleInputs(StepInputs):
    """The inputs of the steps in float64."""

    def critic_draws(self, stream: Stream, inner: int) -> Draws:
        return DoubleDraws(**vars(super().critic_draws(stream, inner)))

    def generator_draws(self, stream: Stream) -> Draws:
        return DoubleDraws(**vars(super().generator_draws(stream)))


def networks(case: Case) -> tuple[nn.Module, nn.Module]:
    classes = CLASSES if case.conditional else None
    with Draws(0, Stream.GENERATOR_WEIGHTS).global_seed():
        if case.networks == "dcgan":
            return (
                dcgan.Generator(LATENT, IMAGE, 2, norm="layer", classes=classes),
                dcgan.Critic(IMAGE, 2, classes=classes),
            )
        generator = mlp.Generator(LATENT, IMAGE, 16, 1, classes)
        if case.networks == "lipschitz":
            return generator, lipschitz.Critic(IMAGE, 16, 1)
        return generator, mlp.Critic(IMAGE, 16, 1, classes)


def data() -> TensorDataset:
    """31 images, so that batches cross the ends of epochs, about half of them mirrored."""
    images = (256 * Draws(1, Stream.POINTS).uniform((39, *IMAGE), CPU)).to(torch.uint8)
    labels = torch.arange(39) % CLASSES
    return TensorDataset(
        "noise", images[:31], images[31:], Labels(labels[:31], labels[31:]), flip=True
    )


def trainer_of(case: Case, ranks: SingleProcess) -> Trainer:
    generator, critic = (network.double() for network in networks(case))
    constraint, dataset = case.constraint(), data()
    critic = constraint.wrap(critic)
    updates = Updates(
        generator,
        critic,
        case.optimizer(generator.parameters(), lr=1e-3),
        case.optimizer(critic.parameters(), lr=1e-3),
        case.loss(),
        constraint,
        grad_clip=case.grad_clip,
        ranks=ranks,
    )
    labels = dataset.labels
    assert labels is not None
    feed = Double(dataset.feed(BATCH, 3, CPU, ranks.shard))
    return Trainer(
        updates,
        DoubleInputs(feed, CriticSchedule(1), 3, ranks.shard),
        steps=STEPS,
        batch_size=BATCH,
        latent_dim=LATENT,
        seed=3,
        decay=LearningRateDecay(),
        ema_decay=0.0,
        cadence=Cadence(NEVER, NEVER, NEVER, NEVER),
        evaluation=None,
        classes=ClassSampler(labels.train, CLASSES, CPU) if case.conditional else None,
    )


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def weights_of(trainer: Trainer) -> Tensor:
    networks = (trainer.updates.generator, trainer.updates.critic)
    return nn.utils.parameters_to_vector(p for n in networks for p in n.parameters()).detach()


def trained(case: Case, ranks: SingleProcess) -> dict[str, Any]:
    """The first gradients of both networks, what the last step reported, and the weights."""
    trainer = trainer_of(case, ranks)
    updates, first = trainer.updates, []
    update = updates.critic_update

    def noting(*arguments: Any) -> Tensor:
        terms = update(*arguments)
        first.append(gradients(updates.critic).clone())
        return terms

    updates.critic_update = noting  # type: ignore[method-assign]
    trainer.train_step()
    first = [first[0], gradients(updates.generator).clone()]
    updates.critic_update = update  # type: ignore[method-assign]
    for _ in range(STEPS - 2):
        trainer.train_step()
    trainer.means.reset()
    trainer.train_step()
    assert not updates.nan_guard.tripped()
    return {"first": first, "means": trainer.means.means(), "weights": weights_of(trainer)}


@pytest.mark.parametrize("name", exhaustive_beyond(USUAL, CASES))
def test_two_ranks_train_as_one_process(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    expected, both = trained(case, ALONE), groups(2, tmp_path, partial(trained, case))
    for found in both:
        for one, other in zip(expected["first"], found["first"], strict=True):
            assert one.abs().max() > 1e-6
            assert (one - other).abs().max() <= 1e-10 * max(1.0, float(one.abs().max()))
        for tag, value in expected["means"].items():
            assert found["means"][tag] == pytest.approx(value, rel=1e-6, abs=1e-12), tag
    assert torch.equal(both[0]["weights"], both[1]["weights"])


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_rows_are_the_batch(world: int) -> None:
    shares = [Shard(rank, world) for rank in range(world)]
    rng = EndlessDataset("points", (2,), lambda rng, count: rng.normal(size=(count, 2)))
    for dataset in (data(), rng):
        whole = dataset.feed(BATCH, 5, CPU)
        parts = [dataset.feed(BATCH, 5, CPU, shard) for shard in shares]
        for update in range(6):
            samples, labels = whole.batch(update)
            found = [feed.batch(update) for feed in parts]
            assert torch.equal(torch.cat([batch.samples for batch in found]), samples)
            if labels is not None:
                assert torch.equal(
                    torch.cat([b.labels for b in found if b.labels is not None]), labels
                )
    draws = [Draws(1, Stream.PENALTY, 2, 3, shard) for shard in shares]
    for kind in ("normal", "uniform"):
        whole_draw = getattr(Draws(1, Stream.PENALTY, 2, 3), kind)((BATCH, 4), CPU)
        rows = [getattr(draw, kind)((BATCH // world, 4), CPU) for draw in draws]
        assert torch.equal(torch.cat(rows), whole_draw)


class Asked(StopSignals):
    def __init__(self, error: WganError | None, *, waited: bool = False) -> None:
        super().__init__()
        self.error, self.waited = error, waited

    def requested(self) -> WganError | None:
        return self.error

    def overdue(self) -> WganError | None:
        return self.error if self.waited else None


def one_update_each(ranks: SingleProcess) -> dict[str, Any]:
    """What the ranks hear of each other in one update each."""
    found: dict[str, Any] = {}
    first = ranks.leads
    for name, signals in (
        ("nothing", Asked(None)),
        ("preempted", Asked(None if first else PreemptedError("x"))),
        (
            "interrupted",
            Asked(PreemptedError("x") if first else InterruptedRunError("x"), waited=first),
        ),
    ):
        shared = ranks.share_signals(signals)
        layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1)])
        weights = TrainedNetwork(layers)
        # The second layer is used by rank 1 alone, by its bias without effect; the third by none.
        layers[0].weight.grad = torch.full((1, 2), 1.0 if first else 3.0)
        if not first:
            layers[1].weight.grad = torch.full((1, 2), 4.0)
            layers[1].bias.grad = torch.zeros(1)
        means = ranks.average(weights, [torch.tensor(1.0 if first else 2.0), torch.tensor(5.0)])
        grads = [None if p.grad is None else p.grad.tolist() for p in layers.parameters()]
        errors = [shared.requested(), shared.overdue()]
        found[name] = ([float(m) for m in means], grads, [type(e).__name__ for e in errors])
    return found


def test_a_message_carries_gradients_numbers_and_signals(tmp_path: Path) -> None:
    one, other = groups(2, tmp_path, one_update_each)
    assert one == other
    gradients = [[[2.0, 2.0]], None, [[2.0, 2.0]], [0.0], None, None]
    assert one == {
        "nothing": ([1.5, 5.0], gradients, ["NoneType", "NoneType"]),
        "preempted": ([1.5, 5.0], gradients, ["PreemptedError", "NoneType"]),
        "interrupted": ([1.5, 5.0], gradients, ["InterruptedRunError", "InterruptedRunError"]),
    }


def test_another_attempt_of_torchrun_reads_nothing_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = HashStore()
    monkeypatch.setattr(process_group, "rendezvous", lambda *_, **__: iter([(store, 1, 2)]))
    found = []
    for attempt in range(2):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        group = process_group.join_process_group.__wrapped__(Process(1, 2, 1, 2))
        assert isinstance(group, ProcessGroup)
        found.append(group.end_of(1))
        group.report_end(5, "NaN", "diverged")
        assert group.end_of(1) is not None
    assert found == [None, None]


def test_a_gpu_is_waited_for_every_few_steps_at_the_same_ones_on_all_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SharedStopSignals, "_on_cpu", lambda self: False)
    shared = SharedStopSignals(Asked(None))
    shared.counts = torch.tensor([1.0, 0.0, 1.0])
    looks = [shared.requested() is not None for _ in range(2 * SharedStopSignals.READ_EVERY)]
    one = [False] * (SharedStopSignals.READ_EVERY - 1) + [True]
    assert looks == one * 2
    assert shared.overdue() is None

"""Tiny trainers on the CPU with the inputs of CUDA, for tests of graphs and of staged inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wgan_cli.acceleration.cuda_graphs import CudaGraph
from wgan_cli.acceleration.step_graphs import StepGraphs
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.constraints import Constraint, GradientPenalty, SpectralNorm, WeightClipping
from wgan_cli.data.dataset import Labels, TensorDataset
from wgan_cli.data.feeds import StagedFeed
from wgan_cli.losses import Loss, Wasserstein
from wgan_cli.models import dcgan, mlp
from wgan_cli.optimizers import RMSprop
from wgan_cli.randomness import FULL_BATCH, Draws, Stream
from wgan_cli.training.callbacks.protocol import Cadence, Callback
from wgan_cli.training.class_sampler import ClassSampler
from wgan_cli.training.rollback import Rollback
from wgan_cli.training.schedule import CriticSchedule, LearningRateDecay
from wgan_cli.training.step_inputs import StagedInputs, StepInputs
from wgan_cli.training.trainer import Trainer
from wgan_cli.training.updates import Updates

CPU = torch.device("cpu")
IMAGE = (1, 16, 16)
BATCH, LATENT, CLASSES = 4, 3, 2
NEVER = 10**9
TWO = CriticSchedule(2)
# Rates that float32 and float64 both hold exactly, also as they fall by sixteenths.
RATE = 2.0**-10
FALLING = LearningRateDecay("linear", 16)
CONSTRAINTS: dict[str, Callable[[], Constraint]] = {
    "clip": lambda: WeightClipping(0.1),
    "penalty": GradientPenalty,
    "norm": SpectralNorm,
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "rmsprop": RMSprop,
    "sgd": lambda weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.5, fused=True),
    "adam": lambda weights, lr: torch.optim.Adam(weights, lr=lr, betas=(0.0, 0.9), fused=True),
}


class Again(CudaGraph):
    """Stands for a graph: runs the recorded function once more.

    What a graph must find on the device (data, rates, random numbers) has to reach it the same way.
    """

    made = 0
    replays = 0

    def __init__(self) -> None:
        Again.made += 1

    def rehearse(self, step: Callable[[], None]) -> None:
        step()

    def record(self, step: Callable[[], None], generator: torch.Generator) -> None:
        self.step = step

    def replay(self) -> None:
        Again.replays += 1
        self.step()


@dataclass(frozen=True)
class Setup:
    """What to train. `graph` None means staged inputs without graphs."""

    model: str = "mlp"
    constraint: str | Constraint = "clip"
    optimizer: str | Callable[..., torch.optim.Optimizer] = "rmsprop"
    bf16: bool = False
    ema: float = 0.0
    conditional: bool = False
    flip: bool = False
    schedule: CriticSchedule = TWO
    decay: LearningRateDecay = FALLING
    loss: Loss | None = None
    relativistic: bool = False
    steps: int = 8
    log: int = 4
    keeps_finite: bool = True

    def dataset(self) -> TensorDataset:
        pixels = Draws(0, Stream.POINTS).uniform((45, *IMAGE), CPU)
        images = (256 * pixels).to(torch.uint8)
        labels = torch.arange(45) % CLASSES
        held = Labels(labels[:37], labels[37:]) if self.conditional else None
        return TensorDataset("noise", images[:37], images[37:], held, flip=self.flip)

    def updates(self) -> Updates:
        held = self.constraint
        constraint = CONSTRAINTS[held]() if isinstance(held, str) else held
        kind = self.optimizer
        make = OPTIMIZERS[kind] if isinstance(kind, str) else kind
        classes = CLASSES if self.conditional else None
        with Draws(0, Stream.GENERATOR_WEIGHTS).global_seed():
            networks: tuple[nn.Module, nn.Module] = (
                (
                    mlp.Generator(LATENT, IMAGE, width=8, depth=1, classes=classes),
                    mlp.Critic(IMAGE, width=8, depth=1, classes=classes),
                )
                if self.model == "mlp"
                else (
                    dcgan.Generator(LATENT, IMAGE, width=2, classes=classes),
                    dcgan.Critic(IMAGE, width=2, norm="none", classes=classes),
                )
            )
            networks = networks[0], constraint.wrap(networks[1])
        flat = not isinstance(constraint, SpectralNorm)
        generator, critic = (
            TrainedNetwork(network, flat=flat, bf16=self.bf16) for network in networks
        )
        return Updates(
            generator,
            critic,
            make(generator.optimizer_parameters, lr=RATE),
            make(critic.optimizer_parameters, lr=RATE),
            self.loss or Wasserstein(),
            constraint,
            keeps_finite=dict.fromkeys(("generator", "critic"), self.keeps_finite),
            generator_needs_real_scores=self.relativistic,
        )

    def trainer(
        self,
        graph: type[CudaGraph] | None = None,
        *,
        staged: bool = True,
        callbacks: Sequence[Callback] = (),
        rollback: Rollback | None = None,
    ) -> Trainer:
        """A trainer with staged inputs, and with graphs if `graph` is given."""
        updates, dataset = self.updates(), self.dataset()
        optimizers = updates.critic_optimizer, updates.generator_optimizer
        feed = dataset.feed(BATCH, 0, CPU)
        assert isinstance(feed, StagedFeed)
        inputs = StepInputs(feed, self.schedule, 0, FULL_BATCH)
        if staged:
            inputs = staged_inputs(feed, self.schedule, log=self.log)
        sampler = None
        if dataset.labels is not None:
            sampler = ClassSampler(dataset.labels.train, CLASSES, CPU)
        return Trainer(
            updates,
            inputs,
            graphs=None if graph is None else StepGraphs(optimizers, new_graph=graph),
            steps=self.steps,
            batch_size=BATCH,
            latent_dim=LATENT,
            seed=0,
            decay=self.decay,
            ema_decay=self.ema,
            cadence=Cadence(self.log, NEVER, NEVER, NEVER),
            evaluation=None,
            classes=sampler,
            callbacks=callbacks,
            rollback=rollback,
        )


def staged_inputs(
    feed: StagedFeed, schedule: CriticSchedule, *, log: int = 4, **others: Any
) -> StagedInputs:
    numbers = feed.batch(0).samples.numel()
    settings = {"seed": 0, "shard": FULL_BATCH, "device": CPU, "numbers": numbers, "groups": 2}
    return StagedInputs(feed, schedule, log_every=log, **{**settings, **others})


def train(trainer: Trainer, steps: int) -> None:
    """Train until step `steps` without measuring anything."""
    while trainer.step < steps:
        trainer.train_step()


def state_of(trainer: Trainer) -> dict[str, Any]:
    """All that a checkpoint holds: each tensor and number under its path."""
    from conftest import leaves

    return {
        key: value.clone() if isinstance(value, Tensor) else value
        for key, value in leaves(trainer.state_dict()).items()
    }


def assert_same(one: Trainer, other: Trainer) -> None:
    """The states of two trainers are equal bit for bit."""
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        same = (
            torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        )
        assert same, key

"""Updates that are recorded and replayed do what they do kernel by kernel.

CUDA graphs are stood in for by one that runs the recorded function again: what a graph must be
given from outside (inputs, random numbers, learning rates) has to reach it here in the same way.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgan_cli.acceleration.cuda_graphs import WARM_UP, CudaGraph, make_capturable
from wgan_cli.acceleration.trained_network import TrainedNetwork
from wgan_cli.constraints import Constraint, GradientPenalty, SpectralNorm, WeightClipping
from wgan_cli.losses import Wasserstein
from wgan_cli.models import dcgan, mlp
from wgan_cli.optimizers import RMSprop
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.graphed_updates import GraphedUpdates
from wgan_cli.training.schedule import LearningRates
from wgan_cli.training.updates import Updates

CPU = torch.device("cpu")
IMAGE = (1, 16, 16)
STEPS = WARM_UP + 5
RATE = 1e-3

pytestmark = pytest.mark.usefixtures("one_seeded_thread")


class Again(CudaGraph):
    """Runs what was recorded once more, and leaves the result where a graph would."""

    made = 0

    def __init__(self) -> None:
        Again.made += 1

    def rehearse(self, update: Callable[[], Tensor]) -> Tensor:
        return update()

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        self.update = update
        self.result: Tensor | None = None
        self.result = torch.empty(0)
        return self.result

    def replay(self) -> None:
        result = self.update()
        self.result.resize_(result.shape).copy_(result)


class Impossible(Again):
    """Cannot be recorded."""

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class Waits(Again):
    """Cannot even be tried: the device would be waited for, half-way."""

    def rehearse(self, update: Callable[[], Tensor]) -> Tensor:
        update()
        raise RuntimeError("called a synchronizing CUDA operation")


class Wrong(Again):
    """Returns something else."""

    def replay(self) -> None:
        super().replay()
        self.result.mul_(2)


class Still(Again):
    """Returns the right numbers and moves nothing."""

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        self.kept = update().clone()
        return self.kept

    def replay(self) -> None:
        """Nothing."""


class Full(Again):
    """Needs more memory than there is."""

    def record(self, update: Callable[[], Tensor]) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def constraint(name: str) -> Constraint:
    made = {"clip": lambda: WeightClipping(0.1), "penalty": GradientPenalty, "norm": SpectralNorm}
    return made[name]()


def built(
    graph: type[CudaGraph] | None,
    *,
    constrained: str = "clip",
    make: Callable[..., torch.optim.Optimizer] = RMSprop,
    model: str = "mlp",
    bf16: bool = False,
) -> Updates:
    held = constraint(constrained)
    with Draws(0, Stream.GENERATOR_WEIGHTS).global_seed():
        if model == "mlp":
            networks: tuple[nn.Module, nn.Module] = (
                mlp.Generator(3, IMAGE, width=16, depth=2),
                mlp.Critic(IMAGE, 16, 2),
            )
        else:
            networks = dcgan.Generator(3, IMAGE, width=4), dcgan.Critic(IMAGE, width=4)
        held.wrap(networks[1])
    weights = [TrainedNetwork(network, flat=True, bf16=bf16) for network in networks]
    optimizers = [make(each.optimizer_parameters, lr=RATE) for each in weights]
    for optimizer in optimizers:
        # A graph reads its learning rate in float32.
        make_capturable(optimizer)
    parts = (*weights, *optimizers, Wasserstein(), held)
    keeps_finite = dict.fromkeys(("critic", "generator"), True)
    if graph is None:
        return Updates(*parts, keeps_finite=keeps_finite)
    return GraphedUpdates(*parts, graph=graph, keeps_finite=keeps_finite)


def trained(updates: Updates, steps: int = STEPS, first: int = 0) -> list[Tensor]:
    """The numbers of every update, at a learning rate that falls."""
    numbers, real = [], torch.empty(8, *IMAGE)
    for step in range(first, first + steps):
        for optimizer in (updates.critic_optimizer, updates.generator_optimizer):
            optimizer.param_groups[0]["lr"].fill_(RATE / (1 + step))
        # In the same memory every time, as a feed may give it.
        real.copy_(Draws(0, Stream.POINTS, step).uniform((8, *IMAGE), CPU) * 2 - 1)
        latent = Draws(0, Stream.CRITIC_NOISE, step).normal((8, 3), CPU)
        draws = Draws(0, Stream.PENALTY, step)
        numbers.append(updates.critic_update(real, latent, draws).clone())
        latent = Draws(0, Stream.GENERATOR_NOISE, step).normal((8, 3), CPU)
        numbers.append(updates.generator_update(latent).clone())
    return numbers


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("make", [RMSprop, torch.optim.SGD])
@pytest.mark.parametrize("constrained", ["clip", "penalty", "norm"])
@pytest.mark.parametrize("model", ["mlp", "dcgan"])
def test_replays_are_the_updates_themselves(
    constrained: str, make: Callable[..., torch.optim.Optimizer], model: str, bf16: bool
) -> None:
    Again.made = 0
    eager = built(None, constrained=constrained, make=make, model=model, bf16=bf16)
    graphed = built(Again, constrained=constrained, make=make, model=model, bf16=bf16)
    for one, other in zip(trained(eager), trained(graphed), strict=True):
        assert torch.equal(one, other)
    assert Again.made == 2
    for name, weight in eager.critic.state_dict().items():
        assert torch.equal(weight, graphed.critic.state_dict()[name])


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (Impossible, r"\(operation not permitted when stream is capturing\)"),
        (Waits, r"\(called a synchronizing CUDA operation\)"),
        (Wrong, r"\(its replay computes something else\)"),
        (Still, r"\(its replay computes something else\)"),
        (Full, r"\(CUDA out of memory\. Tried to allocate 20\.00 GiB\)"),
    ],
)
def test_what_cannot_be_replayed_runs_kernel_by_kernel_and_the_log_says_why(
    graph: type[Again], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    eager, graphed = built(None, constrained="penalty"), built(graph, constrained="penalty")
    with caplog.at_level(logging.WARNING):
        found = trained(graphed)
    for one, other in zip(trained(eager), found, strict=True):
        assert torch.equal(one, other)
    for name, weight in eager.critic.state_dict().items():
        assert torch.equal(weight, graphed.critic.state_dict()[name])
    assert len(caplog.records) == 2
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("The critic update cannot be a CUDA graph (")
    assert second.startswith("The generator update cannot be a CUDA graph (")
    assert re.search(reason, first)


def test_a_checkpoint_is_as_without_graphs_and_is_recorded_anew_where_it_is_loaded() -> None:
    Again.made = 0
    whole, cut, later = built(Again), built(Again), built(Again)
    trained(whole)
    trained(cut, WARM_UP + 2)
    state = cut.state_dict()
    eager = built(None)
    eager.load_state_dict(state)
    make_capturable(eager.critic_optimizer)
    make_capturable(eager.generator_optimizer)
    (group,) = state["critic_optimizer"]["param_groups"]
    assert isinstance(group["lr"], float)
    assert group["params"] == list(range(len(list(cut.critic.parameters()))))
    later.load_state_dict(state)
    assert Again.made == 4
    rest = STEPS - WARM_UP - 2
    for one in (eager, later):
        trained(one, rest, first=WARM_UP + 2)
        for name, weight in whole.critic.state_dict().items():
            assert torch.equal(weight, one.critic.state_dict()[name])


def test_a_constraint_that_draws_on_the_cpu_is_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shaken(Constraint):
        def penalty(self, critic: nn.Module, real: Tensor, *rest: Any) -> Tensor:
            _, draws = rest
            return critic(real).mean() * float(draws.numpy().random())

    graphed = built(Again)
    graphed.constraint = Shaken()
    with caplog.at_level(logging.WARNING):
        trained(graphed)
    assert [record.getMessage() for record in caplog.records] == [
        "The critic update cannot be a CUDA graph (a constraint draws random numbers by numpy,"
        " which runs on the CPU): it runs kernel by kernel."
    ]


def test_memory_that_runs_out_in_the_update_itself_is_told() -> None:
    class Small(Again):
        def rehearse(self, update: Callable[[], Tensor]) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(torch.OutOfMemoryError):
        trained(built(Small))


def test_a_learning_rate_on_the_device_is_set_there() -> None:
    updates = built(Again)
    rates = LearningRates(updates.critic_optimizer, updates.generator_optimizer)
    (group,) = updates.critic_optimizer.param_groups
    rate = group["lr"]
    rates.set(0.25)
    assert group["lr"] is rate
    assert float(rate) == pytest.approx(RATE / 4)


def test_recorded_updates_make_their_own_samples() -> None:
    assert built(None, bf16=True).joins_fakes
    assert not built(Again, bf16=True).joins_fakes

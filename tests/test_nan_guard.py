"""No NaN and no infinity enters a weight, on any of the ways an optimizer's step is held back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgan_cli.constraints import Constraint, GradientPenalty, Unconstrained, WeightClipping
from wgan_cli.errors import DivergedError
from wgan_cli.losses import Gan, Hinge, Loss, Wasserstein
from wgan_cli.models import dcgan, mlp
from wgan_cli.optimizers import RMSprop
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.divergence import check_finite
from wgan_cli.training.nan_guard import NanGuard
from wgan_cli.training.updates import CRITIC_TERMS, GENERATOR_TERMS, Updates

CPU = torch.device("cpu")
IMAGE = (1, 16, 16)
DRAWS = Draws(0, Stream.PENALTY)
NAN, INF = float("nan"), float("inf")

pytestmark = pytest.mark.usefixtures("one_seeded_thread")


class Doubling(torch.optim.SGD):
    """A user's own: its third step multiplies every weight beyond what a float holds."""

    steps = 0

    def step(self, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
        super().step(*arguments, **more)
        self.steps += 1
        if self.steps == 3:
            with torch.no_grad():
                for weight in self.param_groups[0]["params"]:
                    weight.mul_(1e38).mul_(1e38)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "rmsprop": lambda weights: RMSprop(weights, lr=0.1),
    "rmsprop with momentum": lambda weights: RMSprop(weights, lr=0.1, momentum=0.5),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1, fused=True),
    "adam, not fused": lambda weights: torch.optim.Adam(weights, lr=0.1),
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, fused=True),
    "an own": lambda weights: Doubling(weights, lr=0.1, momentum=0.9),
    "torch's rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=0.1, centered=True),
}


# As the traits of those that ship say; others get the safe answer.
KEEPS_FINITE = dict.fromkeys(OPTIMIZERS, True) | {"an own": False, "torch's rmsprop": False}


def guard_of(*, on_cpu: bool, keeps_finite: bool = False) -> NanGuard:
    """As on the CPU, or else as on a device that must not be waited for."""
    networks = ("critic", "generator")
    guard = NanGuard(CPU, {"critic": 3, "generator": 2}, dict.fromkeys(networks, keeps_finite))
    guard._on_cpu = on_cpu
    return guard


def guarded_step(
    guard: NanGuard, network: str, optimizer: torch.optim.Optimizer, terms: Tensor
) -> None:
    with guard.protect(network, optimizer, terms) as may_step:
        if may_step:
            optimizer.step()


def tensors_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    weights = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    # RMSprop counts steps in a number that nothing is computed from.
    return weights + [
        value for entry in state.values() for name, value in entry.items() if name != "step"
    ]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def finite(values: list[Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in values)


def gradients(weights: list[nn.Parameter], *, seed: int, broken: float | None = None) -> None:
    for index, weight in enumerate(weights):
        weight.grad = Draws(seed, Stream.POINTS, index).normal(tuple(weight.shape), CPU)
    if broken is not None:
        assert weights[0].grad is not None
        weights[0].grad.view(-1)[0] = broken


def some_weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3)), nn.Parameter(torch.ones(4))]


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_sound_steps_are_those_without_a_guard(name: str, on_cpu: bool) -> None:
    held, free = some_weights(), some_weights()
    guarded, plain = OPTIMIZERS[name](held), OPTIMIZERS[name](free)
    guard = guard_of(on_cpu=on_cpu, keeps_finite=KEEPS_FINITE[name])
    for step in range(2):
        gradients(held, seed=step)
        gradients(free, seed=step)
        guarded_step(guard, "generator", guarded, torch.zeros(2))
        plain.step()
    assert same(tensors_of(guarded), tensors_of(plain))
    assert not guard.tripped()
    assert guard.updates_passed() == 2


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("broken", [NAN, INF, -INF])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_broken_gradient_moves_nothing_and_nothing_moves_after_it(
    name: str, broken: float, on_cpu: bool
) -> None:
    weights = some_weights()
    optimizer = OPTIMIZERS[name](weights)
    guard = guard_of(on_cpu=on_cpu, keeps_finite=KEEPS_FINITE[name])
    for step in range(2):
        gradients(weights, seed=step)
        guarded_step(guard, "critic", optimizer, torch.ones(3))
    before = tensors_of(optimizer)
    gradients(weights, seed=2, broken=broken)
    guarded_step(guard, "critic", optimizer, torch.tensor([1.0, 2.0, broken]))
    assert guard.tripped()
    gradients(weights, seed=3)
    guarded_step(guard, "critic", optimizer, torch.ones(3))
    guarded_step(guard, "generator", optimizer, torch.ones(2))
    assert same(tensors_of(optimizer), before)
    assert guard.updates_passed() == 0
    assert guard.last_terms("critic") == pytest.approx([1.0, 2.0, broken], nan_ok=True)
    assert not hasattr(optimizer, "found_inf")


@pytest.mark.parametrize("on_cpu", [True, False])
def test_an_own_optimizer_that_breaks_weights_by_itself_is_undone(on_cpu: bool) -> None:
    weights = some_weights()
    optimizer, guard = Doubling(weights, lr=0.1, momentum=0.9), guard_of(on_cpu=on_cpu)
    for step in range(2):
        gradients(weights, seed=step)
        guarded_step(guard, "critic", optimizer, torch.ones(3))
    before = tensors_of(optimizer)
    gradients(weights, seed=2)
    guarded_step(guard, "critic", optimizer, torch.ones(3))
    assert guard.tripped()
    assert same(tensors_of(optimizer), before)


class Spoiling(torch.optim.Adam):
    """A user's own that breaks its state and not yet a weight."""

    def step(self, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
        super().step(*arguments, **more)
        next(iter(self.state.values()))["exp_avg"].fill_(NAN)


def test_an_own_optimizers_broken_state_is_seen_at_once() -> None:
    weights = some_weights()
    optimizer, guard = Spoiling(weights, lr=0.1), guard_of(on_cpu=True)
    gradients(weights, seed=0)
    guarded_step(guard, "critic", optimizer, torch.ones(3))
    assert guard.tripped()
    assert same([w.detach() for w in weights], [w.detach() for w in some_weights()])


class CountingElsewhere(torch.optim.SGD):
    """A user's own, with a step count on another device than its weights."""

    def step(self, *arguments: Any, **more: Any) -> None:  # type: ignore[override]
        super().step(*arguments, **more)
        for weight in self.param_groups[0]["params"]:
            self.state[weight].setdefault("step", torch.zeros((), device="meta"))


@pytest.mark.parametrize("broken", [False, True])
def test_a_count_on_another_device_is_left_alone(broken: bool) -> None:
    """Restoring a count on the CPU of weights on CUDA would wait for the device."""
    weights = some_weights()
    optimizer, guard = CountingElsewhere(weights, lr=0.1), guard_of(on_cpu=False)
    for step in range(2):
        gradients(weights, seed=step)
        guarded_step(guard, "critic", optimizer, torch.ones(3))
    before = [weight.detach().clone() for weight in weights]
    gradients(weights, seed=2)
    guarded_step(guard, "critic", optimizer, torch.tensor([1.0, 1.0, NAN if broken else 1.0]))
    assert guard.tripped() == broken
    assert same([weight.detach() for weight in weights], before) == broken


def test_a_reset_guard_lets_through_and_counts_from_there() -> None:
    weights = some_weights()
    optimizer, guard = OPTIMIZERS["adam"](weights), guard_of(on_cpu=True)
    gradients(weights, seed=0)
    guarded_step(guard, "generator", optimizer, torch.tensor([NAN, 1.0]))
    before = tensors_of(optimizer)
    guard.reset()
    guarded_step(guard, "generator", optimizer, torch.ones(2))
    assert not guard.tripped()
    assert guard.updates_passed() == 1
    assert not same(tensors_of(optimizer), before)


def updates(
    *,
    loss: Loss | None = None,
    constraint: Constraint | None = None,
    make: Any = OPTIMIZERS["adam"],
    model: Any = mlp,
) -> Updates:
    with Draws(0, Stream.GENERATOR_WEIGHTS).global_seed():
        generator = model.Generator(3, IMAGE, width=4)
        critic = model.Critic(IMAGE, width=4)
    return Updates(
        generator,
        critic,
        make(generator.parameters()),
        make(critic.parameters()),
        loss or Wasserstein(),
        constraint or Unconstrained(),
    )


def step(made: Updates, number: int, real: Tensor | None = None) -> None:
    if real is None:
        real = Draws(number, Stream.POINTS).uniform((8, *IMAGE), CPU)
    noise = Draws(number, Stream.CRITIC_NOISE).normal((8, 3), CPU)
    made.critic_update(real, noise, DRAWS)
    made.generator_update(noise)


def everything(made: Updates) -> list[Tensor]:
    return tensors_of(made.critic_optimizer) + tensors_of(made.generator_optimizer)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("model", [mlp, dcgan], ids=["mlp", "dcgan"])
@pytest.mark.parametrize("loss", [Wasserstein(), Hinge(), Gan()], ids=["w", "hinge", "gan"])
@pytest.mark.parametrize(
    "constraint",
    [WeightClipping(0.01), GradientPenalty(10.0), Unconstrained()],
    ids=["clip", "penalty", "none"],
)
def test_a_broken_batch_ends_all_movement_and_is_named(
    constraint: Constraint, loss: Loss, model: Any, on_cpu: bool
) -> None:
    made = updates(loss=loss, constraint=constraint, model=model)
    made.nan_guard._on_cpu = on_cpu
    for number in range(2):
        step(made, number)
    before = everything(made)
    check_finite(made, {}, guard_reset_at=10, step=12)
    broken = torch.zeros(8, *IMAGE)
    broken[3, 0, 5, 5] = NAN
    step(made, 2, broken)
    step(made, 3)
    assert same(everything(made), before)
    assert finite(everything(made))
    with pytest.raises(DivergedError) as caught:
        check_finite(made, {}, guard_reset_at=10, step=14)
    assert caught.value.what == "critic/loss_real became NaN in step 13."
    assert "optimizer.lr" in caught.value.advice


class Explosive(Constraint):
    """A penalty that is not finite the second time."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.calls = 0

    def penalty(self, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> Tensor:
        self.calls += 1
        return sum(p.sum() for p in critic.parameters()) * (self.value if self.calls == 2 else 0)


class Kink(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(context: Any, scores: Tensor) -> Tensor:
        return scores.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * NAN


class NoSlope(Wasserstein):
    def generator(self, fake_scores: Tensor) -> Tensor:
        return super().generator(Kink.apply(fake_scores))


class Overflow(Wasserstein):
    def generator(self, fake_scores: Tensor) -> Tensor:
        return super().generator(fake_scores) * 1e30 * 1e30


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        ({"constraint": Explosive(NAN)}, "critic/penalty became NaN in step 2."),
        ({"constraint": Explosive(INF)}, "critic/penalty became (infinite|NaN) in step 2."),
        ({"loss": NoSlope()}, "generator/grad_norm became NaN in step 1."),
        ({"loss": Overflow()}, "generator/loss became infinite in step 1."),
        ({"make": OPTIMIZERS["an own"]}, "a weight became NaN or infinite in step 3."),
    ],
    ids=["penalty NaN", "penalty infinite", "gradient", "loss", "weight"],
)
def test_the_term_and_the_step_are_named(parts: dict[str, Any], what: str) -> None:
    made = updates(**parts)
    for number in range(4):
        step(made, number)
    assert finite(everything(made))
    with pytest.raises(DivergedError, match=what):
        check_finite(made, {}, guard_reset_at=0, step=4)


def test_advice_fits_what_the_run_has() -> None:
    bare = updates(loss=Overflow())
    step(bare, 0)
    with pytest.raises(DivergedError) as caught:
        check_finite(bare, {}, guard_reset_at=0, step=1)
    assert "a constraint on the critic" in caught.value.advice
    assert "grad_clip.critic" in caught.value.advice
    assert "precision" not in caught.value.advice
    penalised = updates(constraint=Explosive(NAN))
    for number in range(2):
        step(penalised, number)
    with pytest.raises(DivergedError) as caught:
        check_finite(penalised, {}, guard_reset_at=0, step=2)
    assert "coefficient" in caught.value.advice
    assert "a constraint on the critic" not in caught.value.advice


def test_running_statistics_that_overflow_are_found_though_every_loss_is_finite() -> None:
    made = updates()
    made.generator.register_buffer("running_var", torch.tensor([1.0, INF]))
    step(made, 0)
    with pytest.raises(DivergedError, match="a running statistic of the generator is infinite"):
        check_finite(made, {}, guard_reset_at=0, step=1)


def test_a_mean_that_overflows_is_found() -> None:
    made = updates()
    step(made, 0)
    with pytest.raises(DivergedError, match="critic/loss is infinite at step 7"):
        check_finite(made, {"critic/loss": INF}, guard_reset_at=0, step=7)


def test_the_guard_knows_every_number_that_updates_report() -> None:
    made = updates()
    assert len(made.nan_guard.last_terms("critic")) == len(CRITIC_TERMS)
    assert len(made.nan_guard.last_terms("generator")) == len(GENERATOR_TERMS)

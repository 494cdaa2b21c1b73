"""The critic that is 1-Lipschitz by construction: its bound, and that it reaches the distance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wgan_cli.acceleration.trained_network import Frozen
from wgan_cli.constraints import Unconstrained
from wgan_cli.errors import ConfigError
from wgan_cli.losses import Wasserstein
from wgan_cli.metrics.wasserstein import exact_wasserstein
from wgan_cli.models import mlp
from wgan_cli.models.lipschitz import Critic, MaxMin
from wgan_cli.optimizers import RMSprop
from wgan_cli.randomness import Draws, Stream
from wgan_cli.training.updates import Updates

Make = Callable[..., torch.optim.Optimizer]
SHAPES = [(2,), (1, 6, 6), (3, 8, 8)]
ROUNDING = 1e-5

pytestmark = pytest.mark.usefixtures("one_seeded_thread")


def layers_of(critic: Critic) -> Iterator[nn.Linear]:
    return (layer for layer in critic.layers if isinstance(layer, nn.Linear))


def deviation(critic: Critic) -> float:
    """The largest distance of a weight's singular value from 1."""
    weights = [layer.weight.detach().double() for layer in layers_of(critic)]
    return float((torch.cat([torch.linalg.svdvals(w) for w in weights]) - 1).abs().max())


def trained(critic: Critic, shape: tuple[int, ...], make: Make, lr: float, steps: int) -> Critic:
    """Train a critic towards targets of slope 5, which no 1-Lipschitz function can fit."""
    optimizer = make(critic.parameters(), lr=lr)
    for _ in range(steps):
        samples = torch.randn(16, *shape)
        optimizer.zero_grad()
        (critic(samples) - 5 * samples.flatten(1).sum(1)).square().mean().backward()
        optimizer.step()
    return critic


def assert_lipschitz(critic: Critic, shape: tuple[int, ...]) -> None:
    """Check the bound on distant pairs, on near pairs, and on the gradient."""
    first = 3 * torch.randn(500, *shape, dtype=torch.float64)
    double = copy.deepcopy(critic).double()
    for scale in (3.0, 0.1, 1e-3):
        second = first + scale * torch.randn_like(first)
        rise = (double(first) - double(second)).abs()
        assert (rise <= (1 + ROUNDING) * (first - second).flatten(1).norm(dim=1)).all()
    samples = torch.randn(500, *shape, requires_grad=True)
    (gradients,) = torch.autograd.grad(critic(samples).sum(), samples)
    norms = gradients.flatten(1).norm(dim=1)
    assert norms.max() <= 1 + ROUNDING
    assert norms.min() > 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_score_depends_only_on_its_own_sample(shape: tuple[int, ...]):
    critic = Critic(shape, width=8)
    samples = torch.randn(5, *shape)
    scores = critic(samples)
    assert scores.shape == (5,)
    assert critic(samples[:1]).shape == (1,)
    torch.testing.assert_close(scores[:2], critic(samples[:2]))


def test_layers_are_orthonormal_with_maxmin_between():
    critic = Critic((1, 28, 28))
    shapes = [tuple(layer.weight.shape) for layer in layers_of(critic)]
    assert shapes == [(128, 784), (128, 128), (128, 128), (1, 128)]
    assert sum(isinstance(layer, MaxMin) for layer in critic.layers) == 3
    assert [tuple(layer.weight.shape) for layer in layers_of(Critic((2,), width=8, depth=1))] == [
        (8, 2),
        (1, 8),
    ]


def test_maxmin_sorts_pairs_and_loses_nothing():
    hidden = torch.randn(7, 10)
    ordered = MaxMin()(hidden)
    assert (ordered[:, :5] >= ordered[:, 5:]).all()
    assert torch.equal(ordered.sort(1).values, hidden.sort(1).values)
    assert torch.equal(ordered[:, :5], torch.maximum(hidden[:, :5], hidden[:, 5:]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_1_lipschitz_from_the_start(shape: tuple[int, ...]):
    critic = Critic(shape, width=16)
    assert critic.lipschitz_constant == 1.0
    assert deviation(critic) < 1e-5
    assert_lipschitz(critic, shape)


@pytest.mark.parametrize(
    ("make", "lr"),
    [(RMSprop, 1e-2), (torch.optim.Adam, 1e-2), (torch.optim.SGD, 1e-1)],
    ids=["rmsprop", "adam", "sgd"],
)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_it_is_1_lipschitz_after_any_optimizer(shape: tuple[int, ...], make: Make, lr: float):
    critic = Critic(shape, width=16)
    before = critic(torch.ones(1, *shape))
    trained(critic, shape, make, lr, steps=200)
    assert not torch.allclose(before, critic(torch.ones(1, *shape)))
    assert deviation(critic) < 1e-5
    assert_lipschitz(critic, shape)


@pytest.mark.exhaustive
def test_orthonormality_does_not_drift_in_thousands_of_steps():
    critic = Critic((6,), width=8, depth=2)
    trained(critic, (6,), torch.optim.Adam, lr=5e-2, steps=2000)
    assert deviation(critic) < 1e-4
    assert_lipschitz(critic, (6,))


def test_parameters_of_any_size_give_orthonormal_weights():
    critic = Critic((20,), width=16)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(30)
    assert deviation(critic) < 1e-4


@pytest.mark.parametrize("apart", [False, True], ids=["one way", "both ways"])
def test_a_trained_critic_reaches_the_distance_and_never_passes_it(apart: bool):
    """A linear critic sees no difference here: the optimal critic is a fold."""
    real = 0.1 * torch.randn(96, 2)
    shift = torch.tensor([1.2, -1.6])
    sides = torch.where(torch.arange(96) % 2 == 0, 1.0, -1.0) if apart else torch.ones(96)
    fake = 0.1 * torch.randn(96, 2) + sides[:, None] * shift
    exact = exact_wasserstein(real, fake)
    assert exact == pytest.approx(2, rel=0.05)
    critic = Critic((2,), width=32, depth=3)
    generator = nn.Linear(2, 2)
    updates = Updates(
        generator,
        critic,
        torch.optim.SGD(generator.parameters(), lr=0.1),
        torch.optim.Adam(critic.parameters(), lr=5e-3),
        Wasserstein(),
        Unconstrained(),
    )
    with torch.no_grad():
        generator.weight.copy_(torch.eye(2))
        generator.bias.zero_()
    draws = Draws(0, Stream.PENALTY)
    estimates = [float(updates.critic_update(real, fake, draws)[0]) for _ in range(300)]
    assert max(estimates) <= (1 + ROUNDING) * exact
    assert min(estimates[-50:]) >= 0.9 * exact


def test_weights_load_bit_for_bit_into_a_fresh_network():
    samples = torch.randn(9, 2)
    critic = trained(Critic((2,), width=8), (2,), torch.optim.Adam, lr=1e-2, steps=5)
    fresh = Critic((2,), width=8)
    assert not torch.equal(fresh(samples), critic(samples))
    fresh.load_state_dict(critic.state_dict())
    assert torch.equal(fresh(samples), critic(samples))


def test_the_seed_makes_the_network():
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(Critic((2,), width=8)(torch.ones(1, 2)))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_frozen_it_gives_gradients_to_its_inputs_alone():
    critic = Critic((2,), width=8)
    samples = torch.randn(4, 2, requires_grad=True)
    with Frozen(critic):
        critic(samples).sum().backward()
    assert samples.grad is not None
    assert all(parameter.grad is None for parameter in critic.parameters())
    critic(samples).sum().backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_the_slope_can_be_differentiated_by_the_weights():
    critic = Critic((2,), width=8).double()
    samples = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    direction = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def slope() -> Tensor:
        (gradients,) = torch.autograd.grad(critic(samples).sum(), samples, create_graph=True)
        return (gradients @ direction).mean()

    slope().backward()
    for parameter in critic.parameters():
        if parameter.ndim == 1:
            continue
        assert parameter.grad is not None
        step = 1e-6 * torch.randn_like(parameter)
        with torch.no_grad():
            parameter.add_(step)
        above = slope().item()
        with torch.no_grad():
            parameter.sub_(2 * step)
        below = slope().item()
        with torch.no_grad():
            parameter.add_(step)
        expected = 2 * float((parameter.grad * step).sum())
        assert above - below == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_cached_weights_give_the_same_evaluation():
    critic = Critic((2,), width=8)
    samples = torch.randn(4, 2)
    with torch.no_grad(), parametrize.cached():
        first, second = critic(samples), critic(samples)
    assert torch.equal(first, critic(samples))
    assert torch.equal(first, second)


def test_weights_stay_exact_in_bf16():
    critic = Critic((12,), width=8)
    with torch.autocast("cpu", torch.bfloat16):
        scores = critic(torch.randn(3, 12))
        weights = [layer.weight for layer in layers_of(critic)]
    # Its last layer stays in float32.
    assert scores.dtype == torch.float32
    for weight in weights:
        values = torch.linalg.svdvals(weight.double())
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [1, 7, 129])
def test_an_odd_width_is_refused_with_an_even_one(width: int):
    with pytest.raises(ConfigError, match=rf"width={width} is odd.*type.*width={width + 1}\."):
        Critic((2,), width=width)


def test_the_plain_perceptron_is_not_lipschitz():
    """Check that the tests above can fail."""
    critic = mlp.Critic((2,), width=16)
    with torch.no_grad():
        critic.layers[-1].weight.mul_(100)
    with pytest.raises(AssertionError):
        assert_lipschitz(critic, (2,))  # type: ignore[arg-type]


def test_huge_parameters_give_nan_and_no_error():
    critic = Critic((2,), width=4, depth=1)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.fill_(1e15)
    scores = critic(torch.ones(3, 2))
    assert scores.shape == (3,)
    assert scores.isnan().all()
